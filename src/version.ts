/**
 * What this program is called when it is asked. A test keeps the version in step with package.json.
 */

/** Put in by the bundler; absent when the sources run. */
declare const BUILD_TAG: string | undefined

export const version = "0.1.0"

/** Which build this is; `latest` when nobody said, as the reference has it. */
export const buildTag: string = typeof BUILD_TAG === "string" ? BUILD_TAG : "latest"
