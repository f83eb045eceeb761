// v86's declarations name a few types of browsers and of WebAssembly that Node's do not have. Here they stand for themselves and have no parts.

interface HTMLElement {
  readonly nodeType?: number;
}

interface HTMLTextAreaElement extends HTMLElement {
  readonly value?: string;
}

declare namespace WebAssembly {
  type Imports = Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  type Exports = Readonly<Record<string, unknown>>;
}
