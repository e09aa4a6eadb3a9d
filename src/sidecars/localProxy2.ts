/**
 * The configuration of local_proxy as text (reference sections 2.7 and 11.2). Pure.
 */
import type { Tls } from "../spec/ComputeConfig.ts"
import type { ParsedSpec } from "../spec/ParsedSpec.ts"

/** Pretty JSON; what is `null` is left out. */
export const localProxyText = (config: NonNullable<ParsedSpec["localProxy"]>, tls: Tls | null): string => {
  const jwks = config.jwks?.map((one) => ({
    id: one.id,
    role_names: one.roleNames,
    jwks_url: one.jwksUrl,
    provider_name: one.providerName,
    jwt_audience: one.jwtAudience
  }))
  return JSON.stringify(
    {
      ...(jwks === undefined ? {} : { jwks }),
      ...(tls === null ? {} : { tls: { key_path: tls.keyPath, cert_path: tls.certPath } })
    },
    null,
    2
  )
}
