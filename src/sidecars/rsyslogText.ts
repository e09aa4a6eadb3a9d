/**
 * The files that make rsyslogd send records away: Postgres's audit records, and Postgres's log (reference section
 * 11.4). Pure; whatever is put into them stays inside its quotes.
 */
import * as Result from "effect/Result"

export interface Target {
  /** A host name, an IPv4 address, or an IPv6 address without its brackets. */
  readonly host: string
  readonly port: number
}

const hostName = /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?$/
const ipv6 = /^[0-9A-Fa-f:.]{2,45}$/

/** From `host:port`, `[v6]:port`; a sentence about what is wrong otherwise. */
export const parseTarget = (text: string): Result.Result<Target, string> => {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text.trim()) ?? []
  const host = bracketed ?? plain
  const port = Number(digits)
  const fits = bracketed === undefined ? hostName.test(host ?? "") : ipv6.test(bracketed) && bracketed.includes(":")
  return host === undefined || !fits || port < 1 || port > 65535
    ? Result.fail("expected host:port, with an IPv6 address in brackets")
    : Result.succeed({ host, port })
}

/** A quoted constant. Beyond printable ASCII nothing is let in: no version of the reader agrees on more. */
const quoted = (text: string): string =>
  `"${text.replaceAll(/["\\]/g, "\\$&").replaceAll(/[^\x20-\x7e]/g, "?")}"`

/** A quoted value of an expression, where dollars are no variables. Control characters are not let in. */
const expression = (text: string): string =>
  `'${text.toWellFormed().replaceAll(/['\\]/g, "\\$&").replaceAll(/\p{Cc}/gu, "?")}'`

export interface AuditExport {
  readonly target: Target
  readonly tls: boolean
  /** Where Postgres writes its files of audit records. */
  readonly logDirectory: string
  /** Where rsyslogd remembers how far it has read. */
  readonly workDirectory: string
  readonly endpointId: string
  readonly projectId: string
}

/** Authorities that a receiver's certificate is checked against. */
const authorities = "/etc/ssl/certs/ca-certificates.crt"

const tlsParameters = ({ host }: Target): ReadonlyArray<string> => [
  `streamDriver="gtls"`,
  `streamDriverMode="1"`,
  `streamDriverAuthMode="x509/name"`,
  `streamDriverPermittedPeers=${quoted(host)}`
]

/**
 * One JSON record `{endpoint_id, project_id, msg}` per audit record, in an RFC 5424 line. A record of several lines
 * is one message, because only a time stamp begins a new one.
 */
export const auditText = (audit: AuditExport): string =>
  `# Written by compute_ctl; changes are lost.
module(load="imfile")
global(workDirectory=${quoted(audit.workDirectory)}${audit.tls ? ` defaultNetstreamDriverCAFile=${quoted(authorities)}` : ""})

template(name="compute_audit_record" type="list") {
  constant(value="<")
  property(name="pri")
  constant(value=">1 ")
  property(name="timestamp" dateFormat="rfc3339")
  constant(value=" ")
  property(name="hostname")
  constant(value=" ")
  property(name="app-name")
  constant(value=" - - - {\\"endpoint_id\\":\\"")
  property(name="$.endpoint_id" format="json")
  constant(value="\\",\\"project_id\\":\\"")
  property(name="$.project_id" format="json")
  constant(value="\\",\\"msg\\":\\"")
  property(name="msg" format="json")
  constant(value="\\"}\\n")
}

ruleset(name="compute_audit") {
  set $.endpoint_id = ${expression(audit.endpointId)};
  set $.project_id = ${expression(audit.projectId)};
  action(
    type="omfwd"
    target=${quoted(audit.target.host)}
    port="${audit.target.port}"
    protocol="tcp"
    template="compute_audit_record"
    queue.type="linkedList"
    queue.size="1000"
    action.resumeRetryCount="10"
${audit.tls ? tlsParameters(audit.target).map((line) => `    ${line}\n`).join("") : ""}  )
}

input(
  type="imfile"
  file=${quoted(`${audit.logDirectory}/*.log`)}
  tag="pgaudit_log"
  severity="info"
  facility="local5"
  startmsg.regex="^[[:digit:]]{4}-[[:digit:]]{2}-[[:digit:]]{2} [[:digit:]]{2}:[[:digit:]]{2}:[[:digit:]]{2}\\\\.[[:digit:]]{3} GMT,"
  escapeLF="off"
  readTimeout="2"
  ruleset="compute_audit"
)
`

/** Postgres's log, as it arrives by syslog. */
export const exportText = (target: Target): string =>
  `# Written by compute_ctl; changes are lost.
if $programname == "postgres" then {
  action(
    type="omfwd"
    target=${quoted(target.host)}
    port="${target.port}"
    protocol="tcp"
    template="RSYSLOG_SyslogProtocol23Format"
    action.resumeRetryCount="3"
    queue.type="linkedList"
    queue.size="1000"
  )
}
`
