/**
 * As much of JSON Schema as our own print uses: answers the places that do not conform. Unknown keywords are an error.
 */
import type { Json } from "../support/fixtures.ts"

const known = new Set([
  "$schema",
  "$defs",
  "$ref",
  "title",
  "description",
  "type",
  "properties",
  "required",
  "additionalProperties",
  "items",
  "anyOf",
  "oneOf",
  "allOf",
  "enum",
  "const",
  "pattern",
  "minimum",
  "maximum",
  "maxLength"
])

export const conforms = (root: unknown, value: unknown): ReadonlyArray<string> =>
  check(root as Json, root as Json, value, "")

const check = (root: Json, schema: Json, value: unknown, at: string): ReadonlyArray<string> => {
  for (const keyword of Object.keys(schema)) {
    if (!known.has(keyword)) throw new Error(`the JSON Schema has a keyword we do not know: ${keyword}`)
  }
  const wrong: Array<string> = []
  const demand = (good: boolean) => (good ? undefined : wrong.push(at))
  const within = (sub: unknown, one = value, place = at) => check(root, sub as Json, one, place)
  if (typeof schema["$ref"] === "string") {
    const name = schema["$ref"].replace("#/$defs/", "")
    wrong.push(...within((root["$defs"] as Json)[name]))
  }
  if ("type" in schema) demand(hasType(schema["type"], value))
  if ("enum" in schema) demand((schema["enum"] as ReadonlyArray<unknown>).includes(value))
  if ("const" in schema) demand(schema["const"] === value)
  if (typeof value === "string" && "pattern" in schema) demand(new RegExp(String(schema["pattern"]), "u").test(value))
  if (typeof value === "string" && "maxLength" in schema) demand(value.length <= Number(schema["maxLength"]))
  if (typeof value === "number" && "minimum" in schema) demand(value >= Number(schema["minimum"]))
  if (typeof value === "number" && "maximum" in schema) demand(value <= Number(schema["maximum"]))
  for (const sub of (schema["allOf"] ?? []) as ReadonlyArray<unknown>) wrong.push(...within(sub))
  const choices = (schema["anyOf"] ?? schema["oneOf"]) as ReadonlyArray<unknown> | undefined
  if (choices !== undefined) demand(choices.some((sub) => within(sub).length === 0))
  if (Array.isArray(value) && "items" in schema) {
    for (const [index, one] of value.entries()) wrong.push(...within(schema["items"], one, `${at}/${index}`))
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const properties = (schema["properties"] ?? {}) as Json
    const others = schema["additionalProperties"]
    for (const key of (schema["required"] ?? []) as ReadonlyArray<string>) {
      if (!Object.hasOwn(value, key)) wrong.push(`${at}/${key}`)
    }
    for (const [key, one] of Object.entries(value)) {
      const sub = Object.hasOwn(properties, key) ? properties[key] : others
      if (typeof sub === "object") wrong.push(...within(sub, one, `${at}/${key}`))
    }
  }
  return [...new Set(wrong)]
}

const hasType = (type: unknown, value: unknown): boolean => {
  switch (type) {
    case "null":
      return value === null
    case "array":
      return Array.isArray(value)
    case "object":
      return typeof value === "object" && value !== null && !Array.isArray(value)
    case "integer":
      return Number.isInteger(value)
    default:
      return typeof value === type
  }
}
