// Budgets of what a browser downloads, minified and gzipped. Every entry point of every package needs one: a new subpath
// without a budget fails here. A main entry is measured without the other packages and the optional peers, a subpath also
// without what the main entry of its package brings along: it is what using the subpath adds.
import { relative, resolve } from "node:path";
import { publishedPackages, root } from "./workspace.mjs";

/**
 * Budgets in kB by import specifier. The main entries of core and vtd are held at what they are: the goal is 6 kB for core
 * alone and 20 kB for both, and is missed.
 * @type {Record<string, number>}
 */
const budgets = {
  "@iommu-kit/iommu-core": 25.2,
  "@iommu-kit/iommu-core/di": 1.5,
  "@iommu-kit/iommu-core/fd-stream": 1.5,
  "@iommu-kit/iommu-core/testing": 16,
  "@iommu-kit/iommu-vtd": 34.4,
  "@iommu-kit/iommu-vtd/acpi": 12,
  "@iommu-kit/iommu-vtd/di": 1,
  "@iommu-kit/iommu-vtd/inspect": 16,
  "@iommu-kit/iommu-vtd/snapshot": 4,
  "@iommu-kit/iommu-vtd/testing": 8,
  "@iommu-kit/iommu-vtd/units": 8,
  "@iommu-kit/notifier-vfio": 12,
  "@iommu-kit/notifier-vfio/di": 1,
  "@iommu-kit/notifier-vfio/vfio-user": 12,
  "@iommu-kit/notifier-cache": 4,
  "@iommu-kit/notifier-cache/di": 1,
  "@iommu-kit/notifier-cache/vhost-user": 8,
  "@iommu-kit/notifier-cache/worker": 6,
};

const packages = publishedPackages();

/** @type {Check[]} */
const alone = packages.flatMap(({ name, entries }) => {
  const others = packages.flatMap((other) => (other.name === name ? [] : [other.name, `${other.name}/*`]));
  const main = entries.find(({ subpath }) => subpath === ".")?.code ?? "";
  return entries.map(({ specifier, subpath, code }) => {
    const limit = budgets[specifier];
    if (limit === undefined) throw new Error(`${specifier} has no size budget: add one to .ci/size-limit.mjs`);
    return {
      name: specifier,
      path: fromHere(code),
      limit: `${limit} kB`,
      gzip: true,
      ignore: ["tsyringe", "reflect-metadata", "node:*", ...others],
      modifyEsbuildConfig: subpath === "." ? keepExports : (config) => withoutMain(keepExports(config), main),
    };
  });
});

/** @type {Check} */
const together = {
  name: "core and vtd, main entries together",
  path: fromHere("packages/iommu-vtd/dist/index.js"),
  limit: "57.9 kB",
  gzip: true,
  modifyEsbuildConfig: (config) => ({
    ...keepExports(config),
    entryPoints: [],
    stdin: {
      contents: `export * as core from "./packages/iommu-core/dist/index.js";
                 export * as vtd from "./packages/iommu-vtd/dist/index.js";`,
      resolveDir: root,
    },
  }),
};

export default [...alone, together];

/**
 * @typedef {Record<string, unknown>} EsbuildConfig
 * @typedef {object} EsbuildHooks what this file uses of a plugin's `build`
 * @property {(start: () => Promise<void>) => void} onStart
 * @property {(filter: { filter: RegExp }, resolver: (args: { resolveDir: string, path: string }) =>
 *   { path: string, external: boolean } | undefined) => void} onResolve
 * @property {{ build: (config: EsbuildConfig) => Promise<{ metafile: { inputs: Record<string, unknown> } }> }} esbuild
 * @typedef {object} Check
 * @property {string} name
 * @property {string} path
 * @property {string} limit
 * @property {boolean} gzip
 * @property {string[]} [ignore]
 * @property {(config: EsbuildConfig) => EsbuildConfig} modifyEsbuildConfig
 */

/**
 * Without a module format the bundler would drop every export that nobody imports, and measure nothing.
 * @param {EsbuildConfig} config
 * @returns {EsbuildConfig}
 */
function keepExports(config) {
  return { ...config, format: "esm" };
}

/**
 * Leaves out every module that the main entry consists of.
 * @param {EsbuildConfig} config
 * @param {string} main
 * @returns {EsbuildConfig}
 */
function withoutMain(config, main) {
  const inMain = new Set();
  const plugin = {
    name: "without-main",
    /** @param {EsbuildHooks} build */
    setup(build) {
      build.onStart(async () => {
        const bundle = await build.esbuild.build({ ...config, plugins: [], entryPoints: [main], write: false });
        for (const input of Object.keys(bundle.metafile.inputs)) inMain.add(resolve(input));
      });
      build.onResolve({ filter: /^\./ }, ({ resolveDir, path }) => {
        const file = resolve(resolveDir, path);
        return inMain.has(file) ? { path: file, external: true } : undefined;
      });
    },
  };
  return { ...config, plugins: [plugin] };
}

/**
 * size-limit resolves paths from this folder.
 * @param {string} file relative to the root, or absolute
 */
function fromHere(file) {
  return file.startsWith(root) ? relative(`${root}/.ci`, file) : `../${file}`;
}
