// Builds the documentation site into docs/site/dist: guides, existing documents and the API of every entry point, by TypeDoc; then checks every link.
// The site is static and works from the file system: fonts, scripts and styles are its own.
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { LinkChecker, LinkState } from "linkinator";
import { Application, Converter, MarkdownEvent, ReflectionKind } from "typedoc";
import { publishedPackages, root } from "../../../.ci/workspace.mjs";

const out = join(root, "docs/site/dist");

/** The pages in the order of the sidebar, by group. */
const DOCUMENTS = {
  Guides: [
    "plug-in",
    "write-a-notifier",
    "write-a-backend",
    "swap-notifiers",
    "how-replay-works",
    "debug-a-dma-fault",
    "migrate-a-machine",
    "supported",
  ].map((name) => `docs/guides/${name}.md`),
  Reference: [
    ...readdirSync(join(root, "docs"))
      .filter((file) => file.endsWith(".md"))
      .map((file) => `docs/${file}`),
    "ARCHITECTURE.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
  ],
  Packages: publishedPackages().map(({ shortName }) => `packages/${shortName}/README.md`),
  Examples: ["lab", "tools", "virtio-iommu", "worker-device", "v86-linux", "partners"].map(
    (name) => `examples/${name}/README.md`,
  ),
  Decisions: readdirSync(join(root, "docs/adr"))
    .sort((a, b) => Number(b === "README.md") - Number(a === "README.md") || a.localeCompare(b))
    .map((file) => `docs/adr/${file}`),
};

rmSync(out, { recursive: true, force: true });
await build();
inlineFigures();
await checkLinks();

async function build() {
  const entries = entryPoints();
  const app = await Application.bootstrap({
    name: "iommu-kit",
    readme: join(root, "docs/site/home.md"),
    entryPoints: [...entries.keys()],
    entryPointStrategy: "resolve",
    tsconfig: join(root, "docs/site/tsconfig.typedoc.json"),
    projectDocuments: Object.values(DOCUMENTS).flatMap((files) => files.map((file) => join(root, file))),
    out,
    customCss: join(root, "docs/site/src/site.css"),
    disableSources: true,
    excludeInternal: true,
    excludePrivate: true,
    excludeExternals: true,
    sortEntryPoints: false,
    includeVersion: false,
    hideGenerator: true,
    githubPages: false,
    searchInDocuments: true,
    navigation: { includeCategories: false, includeGroups: true, includeFolders: false },
    groupOrder: ["Guides", "Packages", "Modules", "Examples", "Reference", "Decisions", "*"],
    navigationLinks: { Repository: "https://github.com/iommu-kit/iommu-kit" },
    highlightLanguages: ["typescript", "bash", "console", "text", "json", "jsonc", "javascript"],
    validation: { invalidLink: true, invalidPath: true, notExported: false, notDocumented: false, rewrittenLink: true },
    treatWarningsAsErrors: true,
    logLevel: "Warn",
  });
  nameModules(app, entries);
  nameDocuments(app);
  nameCodeBlocks(app);
  const project = await app.convert();
  if (project === undefined) throw new Error("the sources do not compile");
  app.validate(project);
  await app.generateOutputs(project);
  if (app.logger.hasErrors() || app.logger.hasWarnings()) throw new Error("TypeDoc has warnings, see above");
}

/**
 * Source file -> what a program imports, from every package's `exports`.
 * @returns {Map<string, string>}
 */
function entryPoints() {
  const entries = publishedPackages().flatMap((pkg) => pkg.entries);
  return new Map(
    entries.map(({ types, specifier }) => [types.replace("/dist/", "/src/").replace(/\.d\.ts$/, ".ts"), specifier]),
  );
}

/**
 * Modules are named as they are imported.
 * @param {Application} app
 * @param {Map<string, string>} entries
 */
function nameModules(app, entries) {
  app.converter.on(Converter.EVENT_CREATE_DECLARATION, (context, reflection) => {
    if (!reflection.kindOf(ReflectionKind.Module)) return;
    const symbol = context.getSymbolFromReflection(reflection);
    const file = symbol?.declarations?.[0]?.getSourceFile().fileName;
    const name = file === undefined ? undefined : entries.get(resolve(file));
    if (name !== undefined) reflection.name = name;
  });
}

/**
 * Documents are named by their first heading, and belong to a group.
 * @param {Application} app
 */
function nameDocuments(app) {
  app.converter.on(Converter.EVENT_CREATE_DOCUMENT, (_context, document) => {
    const file = document.project.files.getReflectionPath(document) ?? "";
    const heading = /^# (.*)$/m.exec(readFileSync(file, "utf8"))?.[1];
    const path = relative(root, file);
    const group = Object.entries(DOCUMENTS).find(([, files]) => files.includes(path))?.[0];
    if (heading === undefined || group === undefined) throw new Error(`${path}: no heading, or no group`);
    if (path.startsWith("examples/")) document.name = basename(dirname(file));
    else document.name = heading.replaceAll("`", "");
    document.frontmatter["group"] = group;
  });
}

/**
 * A block that is to be saved shows its file's name.
 * @param {Application} app
 */
function nameCodeBlocks(app) {
  app.renderer.on(
    MarkdownEvent.PARSE,
    (event) => {
      event.parsedText = event.parsedText.replaceAll(
        /^```ts (\S+)$/gm,
        (_line, /** @type {string} */ name) => `<span class="code-name">${name}</span>\n\n\`\`\`ts`,
      );
    },
    200,
  );
}

/** Pictures become part of their pages, where they can follow the theme switch. */
function inlineFigures() {
  for (const file of readdirSync(out, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".html")) continue;
    const path = join(out, file);
    const html = readFileSync(path, "utf8");
    const inlined = html.replaceAll(
      /<img src="([^"]+\.svg)"[^>]*>/g,
      (/** @type {string} */ whole, /** @type {string} */ source) => {
        const picture = resolve(dirname(path), source);
        return existsSync(picture)
          ? `<span class="figure-frame">${readFileSync(picture, "utf8").replace(/\n\s*/g, "\n")}</span>`
          : whole;
      },
    );
    if (inlined !== html) writeFileSync(path, inlined);
  }
}

async function checkLinks() {
  const checker = new LinkChecker();
  let count = 0;
  checker.on("link", () => (count += 1));
  // Pages of others are not asked: the build works offline, and does not fail for them.
  const { links } = await checker.check({ path: out, recurse: true, linksToSkip: ["^https?://(?!localhost)"] });
  const dead = links.filter(({ state }) => state === LinkState.BROKEN);
  for (const { url, parent } of dead) console.error(`dead link: ${url} on ${parent}`);
  const pages = readdirSync(out, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".html")).length;
  console.log(`${pages} pages, ${count} links, ${dead.length} dead: docs/site/dist/index.html`);
  if (dead.length > 0 || count < pages) process.exitCode = 1;
}
