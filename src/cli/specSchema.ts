/**
 * The spec's JSON Schema (draft 2020-12), printed from the Schema that decodes it, so that the two can not differ.
 *
 * A first check for editors and control planes. What JSON Schema can not say (bytes of a name, where addresses may
 * come from) only `parseSpec` says.
 */
import * as Schema from "effect/Schema"
import { ComputeSpec } from "../spec/ComputeSpec.ts"

export const specJsonSchema = (): unknown => {
  const { definitions, schema } = Schema.toJsonSchemaDocument(ComputeSpec)
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "ComputeSpec",
    description: "What one Postgres compute shall be: its cluster, where its data lives, and how it behaves.",
    ...schema,
    $defs: definitions
  }
}
