/**
 * As much of JSON Schema as the API's document uses: values that fit a schema or nearly do, and what is wrong with one.
 */

export interface JsonSchema {
  readonly $ref?: string
  readonly type?: string
  readonly enum?: ReadonlyArray<unknown>
  readonly anyOf?: ReadonlyArray<JsonSchema>
  readonly allOf?: ReadonlyArray<JsonSchema>
  readonly properties?: Readonly<Record<string, JsonSchema>>
  readonly required?: ReadonlyArray<string>
  readonly additionalProperties?: boolean | JsonSchema
  readonly items?: JsonSchema
  readonly pattern?: string
  readonly minimum?: number
  readonly maximum?: number
  readonly minLength?: number
  readonly maxLength?: number
  readonly maxItems?: number
}

const understood = new Set(
  (
    "$ref type enum anyOf allOf properties required additionalProperties items pattern minimum maximum minLength " +
    "maxLength maxItems description title"
  ).split(" ")
)

export type Schemas = Readonly<Record<string, JsonSchema>>

const resolve = (schema: JsonSchema, schemas: Schemas): JsonSchema => {
  if (schema.$ref === undefined) return schema
  const found = schemas[schema.$ref.replace("#/components/schemas/", "")]
  if (found === undefined) throw new Error(`${schema.$ref} is not in the document`)
  return found
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const typeOf = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "array" : Number.isInteger(value) ? "integer" : typeof value

const ofType = (wanted: string, value: unknown): boolean =>
  typeOf(value) === wanted || (wanted === "number" && typeOf(value) === "integer")

const wrongText = (schema: JsonSchema, value: string): ReadonlyArray<string> => [
  ...(schema.pattern !== undefined && !new RegExp(schema.pattern, "u").test(value) ? [`no ${schema.pattern}`] : []),
  ...([...value].length < (schema.minLength ?? 0) ? ["too short"] : []),
  ...([...value].length > (schema.maxLength ?? Infinity) ? ["too long"] : [])
]

/** One sentence for each thing that is wrong; `at` is where. */
export const faultsOf = (given: JsonSchema, value: unknown, schemas: Schemas, at = ""): ReadonlyArray<string> => {
  const schema = resolve(given, schemas)
  for (const key of Object.keys(schema)) if (!understood.has(key)) throw new Error(`${key} is not understood`)
  const faults = (text: string) => [`${at}: ${text}`]
  if (schema.anyOf !== undefined && schema.anyOf.every((one) => faultsOf(one, value, schemas, at).length > 0))
    return faults("fits none of the choices")
  if (schema.enum !== undefined && !schema.enum.includes(value)) return faults(`${JSON.stringify(value)} is no choice`)
  if (schema.type !== undefined && !ofType(schema.type, value)) return faults(`is no ${schema.type}`)
  const found = (schema.allOf ?? []).flatMap((one) => faultsOf(one, value, schemas, at))
  if (typeof value === "string") return [...found, ...wrongText(schema, value).flatMap(faults)]
  if (typeof value === "number") {
    const within = value >= (schema.minimum ?? -Infinity) && value <= (schema.maximum ?? Infinity)
    return within ? found : [...found, ...faults(`${value} is out of bounds`)]
  }
  if (Array.isArray(value)) {
    if (value.length > (schema.maxItems ?? Infinity)) return faults("too many")
    const { items = {} } = schema
    return [...found, ...value.flatMap((one, index) => faultsOf(items, one, schemas, `${at}[${index}]`))]
  }
  if (!isRecord(value)) return found
  const { additionalProperties = true, properties = {}, required = [] } = schema
  const rest = additionalProperties === true ? {} : additionalProperties
  return [
    ...found,
    ...required.filter((key) => !(key in value)).flatMap((key) => faults(`${key} is missing`)),
    ...Object.entries(value).flatMap(([key, one]) => {
      const known = Object.hasOwn(properties, key) ? properties[key] : rest
      return known === false ? faults(`${key} is not declared`) : faultsOf(known ?? {}, one, schemas, `${at}.${key}`)
    })
  ]
}

/** From 0 to below 1. */
export type Random = () => number

const pick = <A>(random: Random, from: ReadonlyArray<A>): A => {
  const one = from[Math.floor(random() * from.length)]
  if (one === undefined) throw new Error("nothing to choose from")
  return one
}

const texts = [
  "",
  "a",
  "app",
  "public",
  "ü☃",
  "x".repeat(300),
  "a\nb",
  "'; drop",
  "30s",
  "fast",
  "immediate",
  "true",
  "1"
]
const anything: ReadonlyArray<unknown> = [null, true, 0, -1, 1.5, 2 ** 53, "x", [], {}, [[]], { spec: null }]

/** A value that has the schema's shape; about every twentieth part of it has not. */
export const valueFor = (random: Random, given: JsonSchema, schemas: Schemas): unknown => {
  if (random() < 0.05) return pick(random, anything)
  const schema = resolve(given, schemas)
  if (schema.enum !== undefined) return pick(random, schema.enum)
  if (schema.anyOf !== undefined) return valueFor(random, pick(random, schema.anyOf), schemas)
  switch (schema.type) {
    case "string":
      return pick(random, texts)
    case "integer":
    case "number":
      return Math.floor(random() * Math.min(schema.maximum ?? 1000, 1e6)) + (random() < 0.1 ? 0.5 : 0)
    case "boolean":
      return random() < 0.5
    case "null":
      return null
    case "array":
      return Array.from({ length: Math.floor(random() * 4) }, () => valueFor(random, schema.items ?? {}, schemas))
    case "object":
      return Object.fromEntries(
        Object.entries(schema.properties ?? {})
          .filter(([key]) => (schema.required ?? []).includes(key) || random() < 0.5)
          .map(([key, one]) => [key, valueFor(random, one, schemas)])
      )
    default:
      return pick(random, anything)
  }
}
