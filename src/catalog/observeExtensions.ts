/**
 * Which extensions that an apply may want are available, asked by name: the view `pg_available_extensions` reads every
 * control file there is, and fails for a single one that cannot be read or has a fault.
 */
import { doBlock, quoteLiteral } from "../pgwire/quote.ts"
import type { StatementResult } from "../pgwire/Wire.ts"
import type { Catalog, ObservedExtension } from "./Catalog.ts"

const wanted = ["neon", "pg_stat_statements", "anon", "pgaudit", "pgauditlogtofile"]

const names = wanted.map(quoteLiteral).join(", ")

/** As the file has it (the grammar of guc-file.l), with quotes around it or without. */
const versionPattern = quoteLiteral(
  "(?n)^[ \\t]*default_version[ \\t]*=?[ \\t]*((?:'(?:[^'\\\\]|''|\\\\.)*')|[^[:space:]'#]+)"
)

/**
 * Sets `compute_ctl.extensions`: by name the version that the files would give, or why they cannot be used. What is not
 * there has neither. `pg_extension_update_paths` reads the control file of one extension, wherever Postgres looks for
 * it, and checks it. The file itself is read for its version; who may not read files asks the view.
 */
export const availableExtensionsSql = doBlock(`
DECLARE
  one text;
  folder text;
  control text;
  version text;
  found jsonb := '{}';
BEGIN
  FOREACH one IN ARRAY ARRAY[${names}] LOOP
    BEGIN
      PERFORM FROM pg_catalog.pg_extension_update_paths(one::name);
      control := NULL;
      version := NULL;
      BEGIN
        FOREACH folder IN ARRAY pg_catalog.string_to_array(
          coalesce(NULLIF(pg_catalog.current_setting('extension_control_path', true), ''), '$system'), ':'
        ) LOOP
          IF folder = '$system' THEN
            SELECT c.setting INTO folder FROM pg_catalog.pg_config c WHERE c.name = 'SHAREDIR';
          END IF;
          control := pg_catalog.pg_read_file(folder || '/extension/' || one || '.control', true);
          EXIT WHEN control IS NOT NULL;
        END LOOP;
        version := pg_catalog.substring(control, ${versionPattern});
        IF pg_catalog.starts_with(version, '''') THEN
          version := pg_catalog.replace(pg_catalog.substr(version, 2, pg_catalog.length(version) - 2), '''''', '''');
        END IF;
      EXCEPTION WHEN insufficient_privilege THEN
        SELECT a.default_version INTO version FROM pg_catalog.pg_available_extensions a WHERE a.name = one;
      END;
      found := found || pg_catalog.jsonb_build_object(one, pg_catalog.jsonb_build_object('version', version));
    EXCEPTION
      -- It is not there, in older words and in newer ones.
      WHEN undefined_file OR feature_not_supported THEN
        NULL;
      WHEN OTHERS THEN
        found := found || pg_catalog.jsonb_build_object(one, pg_catalog.jsonb_build_object('fault', SQLERRM));
    END;
  END LOOP;
  PERFORM pg_catalog.set_config('compute_ctl.extensions', found::text, false);
END`)

export const extensionsSql = `SELECT pg_catalog.current_setting('compute_ctl.extensions'),
  e.extname, e.extversion, n.nspname, e.extrelocatable
  FROM (VALUES (1)) one(row) LEFT JOIN (pg_catalog.pg_extension e
  JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace) ON e.extname IN (${names})`

type Rows = StatementResult["rows"]

interface Found {
  readonly version?: string | null
  readonly fault?: string
}

export const readExtensions = (rows: Rows): Pick<Catalog, "extensions" | "faultyExtensions"> => {
  const found = Object.entries(JSON.parse(rows[0]?.[0] ?? "{}") as Record<string, Found>)
  const installed = new Map(
    rows.map(([, name, version, schema, relocatable]) => [
      name,
      { version: version ?? "", schema: schema ?? "", relocatable: relocatable === "t" }
    ])
  )
  const usable = found.flatMap(([name, { fault, version }]): Array<[string, ObservedExtension]> =>
    fault === undefined ? [[name, { available: version ?? null, installed: installed.get(name) ?? null }]] : []
  )
  const faulty = found.flatMap(([name, { fault }]): Array<[string, string]> =>
    fault === undefined ? [] : [[name, fault]]
  )
  return { extensions: new Map(usable), faultyExtensions: new Map(faulty) }
}
