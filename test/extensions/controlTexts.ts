/**
 * Texts of control files, good and bad, for what Postgres is compared with.
 */
export const goodTexts = [
  "default_version = '1.0'\n",
  "",
  "# nothing\n\n  comment 'it''s \\'so\\' # here' # there\r\ndefault_version 1.0",
  "default_version = '1.0'\ndirectory = 'extension'\nmodule_pathname = '$libdir/x'\nrequires = 'a, b'\n",
  "schema = pg_catalog\nrelocatable = F\nsuperuser = of\ntrusted = YE\nno_relocate = 'a'\n",
  "relocatable = 1\n"
]

export const badTexts = [
  "default_version = '1.0\n",
  "default_version = \n",
  "default_version = '1.0' '1.1'\n",
  "Default_version = '1.0'\n",
  "unheard_of = 1\n",
  "relocatable = perhaps\n",
  "superuser = o\n",
  "schema = a\nrelocatable = true\n",
  "just words, and no setting\n",
  "= 1\n"
]
