/** What a pageserver says no to, over libpq and over gRPC alike: the fault, and how the storage tells it. */
export const refusedBasebackups = [
  [
    "wrong token",
    {},
    "PageserverRefused",
    /^the pageserver at 127\.0\.0\.1:\d+ does not take the token for this tenant$/
  ],
  ["another tenant's token", {}, "PageserverRefused", /does not take the token for this tenant$/],
  ["unknown timeline", {}, "PageserverRefused", /^the pageserver at 127\.0\.0\.1:\d+ does not have this timeline$/],
  ["collected", {}, "PageserverRefused", /^the pageserver at 127\.0\.0\.1:\d+ no longer has what was at this LSN$/],
  ["ahead of the tip", {}, "TimedOut", /^timed out after 500 ms: the first byte of the basebackup/]
] as const
