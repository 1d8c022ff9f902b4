/**
 * Separates what is code, comment and text in a JavaScript or TypeScript file, without a parser.
 *
 * Both results keep every offset and line break of the input: `code` has blanks for comments, `bare` also for the
 * contents of strings, templates and regular expressions. A slash begins a regular expression when no value
 * can stand before it; that guess is the only heuristic here. Of JSX it knows that `</` and `/>` are no expressions.
 */

const CODE = 0;
const COMMENT = 1;
const TEXT = 2;
const BEFORE_EXPRESSION =
  /(?:^|[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|in|of|yield|await|void|delete))$/;

/** Returns `{ code, bare }`, both as long as `text`. */
export function markSource(text) {
  const kinds = new Uint8Array(text.length);
  const braces = [];
  let at = 0;
  while (at < text.length) {
    const two = text.slice(at, at + 2);
    const char = text[at];
    if (two === "//") at = mark(kinds, at, endOfLine(text, at), COMMENT);
    else if (two === "/*") at = mark(kinds, at, after(text, "*/", at + 2), COMMENT);
    else if (char === '"' || char === "'") at = mark(kinds, at + 1, endOfString(text, at) - 1, TEXT) + 1;
    else if (char === "`") at = template(text, kinds, at + 1, braces);
    else if (char === "/" && (text[at - 1] === "<" || text[at + 1] === ">")) at++;
    else if (char === "/" && BEFORE_EXPRESSION.test(before(text, kinds, at))) {
      at = mark(kinds, at + 1, endOfRegExp(text, at) - 1, TEXT) + 1;
    } else if (char === "{") {
      braces.push("{");
      at++;
    } else if (char === "}") {
      at = braces.pop() === "${" ? template(text, kinds, at + 1, braces) : at + 1;
    } else at++;
  }
  return { code: keep(text, kinds, COMMENT), bare: keep(text, kinds, CODE, true) };
}

function keep(text, kinds, kind, only = false) {
  let result = "";
  for (let at = 0; at < text.length; at++) {
    const kept = only ? kinds[at] === kind : kinds[at] !== kind;
    result += kept || text[at] === "\n" ? text[at] : " ";
  }
  return result;
}

function mark(kinds, from, to, kind) {
  kinds.fill(kind, from, to);
  return Math.max(from, to);
}

function endOfLine(text, from) {
  const end = text.indexOf("\n", from);
  return end < 0 ? text.length : end;
}

function after(text, wanted, from) {
  const end = text.indexOf(wanted, from);
  return end < 0 ? text.length : end + wanted.length;
}

/** The offset after the closing quote; a line break ends a broken string. */
function endOfString(text, from) {
  for (let at = from + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === text[from] || text[at] === "\n") return at + 1;
  }
  return text.length;
}

function endOfRegExp(text, from) {
  let inClass = false;
  for (let at = from + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "[") inClass = true;
    else if (text[at] === "]") inClass = false;
    else if ((text[at] === "/" && !inClass) || text[at] === "\n") return at + 1;
  }
  return text.length;
}

/** Marks template text from `from`; returns the offset after the closing backtick or after `${`. */
function template(text, kinds, from, braces) {
  let at = from;
  for (; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "`") return mark(kinds, from, at, TEXT) + 1;
    else if (text.startsWith("${", at)) {
      braces.push("${");
      return mark(kinds, from, at, TEXT) + 2;
    }
  }
  return mark(kinds, from, at, TEXT);
}

/** The last few characters of code before `at`, without blanks and comments. */
function before(text, kinds, at) {
  let found = "";
  for (let back = at - 1; back >= 0 && found.length < 8; back--) {
    if (kinds[back] === COMMENT) continue;
    if (/\s/.test(text[back])) {
      if (found !== "") break;
    } else found = text[back] + found;
  }
  return found;
}
