/**
 * docs/errors.md: every error code, from the lines beside the codes in iommu-core and the places in all packages that make an `IommuError`.
 */

import { readdirSync, readFileSync } from "node:fs";

/** One `new IommuError(...)`. Values that are known only at run time read `…`. */
export interface ErrorSite {
  readonly package: string;
  readonly file: string;
  readonly code: string;
  readonly message: string;
  readonly hint: string;
}

const PACKAGES = new URL("../../../", import.meta.url);
const START = "new IommuError(";
const VALUE = "…";

/** The codes and what they mean, in the order of their declaration. */
export function errorCodes(): ReadonlyMap<string, string> {
  const source = readFileSync(new URL("iommu-core/src/errors.ts", PACKAGES), "utf8");
  return new Map(
    [...source.matchAll(/\/\*\* (.+) \*\/\n {2}\| "([a-z-]+)"/g)].map(([, text = "", code = ""]) => [code, text]),
  );
}

/** Every place that makes an error, but those of the testing kits. */
export function errorSites(): ErrorSite[] {
  return readdirSync(PACKAGES, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .flatMap(({ name }) => sitesOf(name))
    .toSorted((a, b) => a.code.localeCompare(b.code) || a.message.localeCompare(b.message));
}

function sitesOf(name: string): ErrorSite[] {
  const source = new URL(`${name}/src/`, PACKAGES);
  const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter(
    (file) => file.endsWith(".ts") && !file.startsWith("testing"),
  );
  return files.flatMap((file) => {
    const text = readFileSync(new URL(file.replaceAll("\\", "/"), source), "utf8");
    return text
      .split(START)
      .slice(1)
      .flatMap((rest) => read(rest, { package: name, file }));
  });
}

/** The arguments after `new IommuError(`. A code that a caller gives stands for each code that its type names. */
function read(rest: string, where: Pick<ErrorSite, "package" | "file">): ErrorSite[] {
  const code = /^\s*(?:"([a-z-]+)"|code),/.exec(rest);
  if (code === null) return [];
  const message = literal(rest, code[0].length);
  const hintAt = rest.indexOf("hint", message.end);
  const colon = rest.startsWith("hint:", hintAt);
  const hint = colon ? literal(rest, hintAt + 5).text : VALUE;
  const codes = code[1] === undefined ? ["backend-contract", "notifier-contract"] : [code[1]];
  return codes.map((one) => ({ ...where, code: one, message: message.text, hint }));
}

/** The text of the string or template at or behind `at`; an expression is a value. */
function literal(source: string, at: number): { readonly text: string; readonly end: number } {
  let from = at;
  while (/\s/.test(source[from] ?? "x")) from += 1;
  const quote = source[from];
  if (quote !== '"' && quote !== "'" && quote !== "`") return { text: VALUE, end: from };
  let text = "";
  for (let i = from + 1; i < source.length; i++) {
    if (source[i] === quote) return { text, end: i + 1 };
    if (quote === "`" && source.startsWith("${", i)) {
      i = endOfExpression(source, i + 2);
      text += VALUE;
    } else {
      text += source[i] ?? "";
    }
  }
  return { text, end: source.length };
}

/** Where the `}` of a template's expression is; it may hold strings and templates of its own. */
function endOfExpression(source: string, at: number): number {
  for (let i = at; i < source.length; i++) {
    const char = source[i] ?? "";
    if (char === "}") return i;
    if (char === "{") i = endOfExpression(source, i + 1);
    else if (char === '"' || char === "`") i = literal(source, i).end - 1;
  }
  return source.length;
}

/** The page. */
export function errorsPage(): string {
  const sites = errorSites();
  const of = (code: string): ErrorSite[] => sites.filter((site) => site.code === code);
  const packages = (code: string): string => [...new Set(of(code).map((site) => site.package))].toSorted().join(", ");
  return [
    "# Errors",
    "",
    "What a *guest* does wrong is never thrown: it is a fault reason ([capabilities.md](capabilities.md)). What the *host* does wrong is one class,",
    "`IommuError`: `message` says what was expected and what was got, with the fix in brackets; `hint` is the fix alone; `code` is stable across releases,",
    "so switch on it. Failures of notifiers and connections come as the same class, in `failed` events, in `revoke` and in rejected promises.",
    "",
    "Made from the source; a test fails when this page is out of date, and another one provokes every code. To make it anew:",
    "`npx vitest run packages/notifier-vfio/test/errors --update`.",
    "",
    "| code | what went wrong | packages |",
    "|---|---|---|",
    ...[...errorCodes()].map(([code, text]) => `| [\`${code}\`](#${code}) | ${text} | ${packages(code)} |`),
    "",
    "A peer dependency that is missing is no `IommuError`, because the import fails before any code of ours runs: Node says `Cannot find package 'tsyringe'`",
    "(or `'reflect-metadata'`) and names the `di.js` that wants it. The fix: `npm install tsyringe reflect-metadata`, or make the classes with plain `new`.",
    "",
    "`…` stands for a value of the moment.",
    ...[...errorCodes().keys()].flatMap((code) => [
      "",
      `## ${code}`,
      "",
      "| message | fix | package |",
      "|---|---|---|",
      ...of(code).map(({ message, hint, package: name }) => `| ${cell(message)} | ${cell(hint)} | ${name} |`),
    ]),
    "",
  ].join("\n");
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|").replaceAll("<", "&lt;");
}
