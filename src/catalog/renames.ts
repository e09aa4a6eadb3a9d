/**
 * Whether a rename of the spec's delta list is still to be done.
 *
 * Deltas come again with every start on the same spec, and nothing says whether they were done before; the names that
 * exist have to.
 */

interface Rename {
  readonly name: string
  readonly to: string
}

/** Follows a name through the later renames. */
const finalName = (renames: ReadonlyArray<Rename>, index: number): string => {
  let name = renames[index]?.to ?? ""
  for (const later of renames.slice(index + 1)) if (later.name === name) name = later.to
  return name
}

/**
 * `todo`; `absent`: there is nothing of the old name, so it was done or never applied; otherwise why it is left
 * alone. An exchange of two names over a third cannot be told from one that is done: it is taken for done.
 */
export const decideRename = (
  renames: ReadonlyArray<Rename>,
  index: number,
  exists: (name: string) => boolean,
  wanted: (name: string) => boolean
): "todo" | "absent" | { readonly because: string } => {
  const rename = renames[index]
  if (rename === undefined || rename.name === rename.to || !exists(rename.name)) return "absent"
  const final = finalName(renames, index)
  if (exists(rename.to)) return { because: `${JSON.stringify(rename.to)} exists already` }
  if (exists(final)) return { because: `${JSON.stringify(final)}, where this rename would end, exists already` }
  if (wanted(rename.name) && !wanted(final)) {
    return { because: `the spec wants ${JSON.stringify(rename.name)} and does not want ${JSON.stringify(final)}` }
  }
  return "todo"
}
