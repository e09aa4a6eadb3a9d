/**
 * Text for logs and answers, without what URLs in it hold of passwords and tokens. Flags and specs are refused with
 * such URLs where nobody needs them; what is told of others' words (a cause, a library's message) comes by here.
 */

/** The user's name stays, unless it is all there is in a web URL: then it is a token, as a rule. Linear. */
export const redactUrls = (text: string): string =>
  text.includes("://")
    ? text
        .replaceAll(/:\/\/([^\s/?#'":@]*):[^\s/?#'"]*@/g, "://$1:***@")
        .replaceAll(/(https?):\/\/[^\s/?#'":@]+@/gi, "$1://***@")
    : text
