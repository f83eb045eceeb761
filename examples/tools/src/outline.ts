/** A plain object as an indented outline, for people. */

/** Names whose numbers are addresses, sizes or identifiers of hardware. */
const HEXADECIMAL = /gpa|bytelength|Gpa|ByteLength|Revision/;

/** Lines for the properties of an object; empty lists are left out. */
export function* outline(value: object, indent: string): Generator<string> {
  for (const [name, each] of Object.entries(value)) {
    if (Array.isArray(each)) yield* list(name, each, indent);
    else if (typeof each === "object" && each !== null) {
      yield `${indent}${name}`;
      yield* outline(each as object, `${indent}  `);
    } else yield `${indent}${name}: ${scalar(name, each)}`;
  }
}

function* list(name: string, items: readonly unknown[], indent: string): Generator<string> {
  for (const [index, item] of items.entries()) {
    if (typeof item !== "object" || item === null) {
      yield `${indent}${name}: ${scalar(name, item)}`;
      continue;
    }
    yield `${indent}${name} ${index + 1} of ${items.length}`;
    yield* outline(item, `${indent}  `);
  }
}

function scalar(name: string, value: unknown): string {
  if (typeof value === "number" && HEXADECIMAL.test(name)) return `0x${value.toString(16)}`;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value);
}
