// Budgets of what a browser downloads, minified and gzipped. Every entry point of every package needs one: a new subpath
// without a budget fails here. Each is measured without the other packages and without the optional peers.
import { relative } from "node:path";
import { publishedPackages, root } from "./workspace.mjs";

/**
 * Budgets in kB by import specifier.
 * @type {Record<string, number>}
 */
const budgets = {
  "@iommu-kit/iommu-core": 6,
  "@iommu-kit/iommu-core/di": 2,
  "@iommu-kit/iommu-core/testing": 16,
  "@iommu-kit/iommu-vtd": 20,
  "@iommu-kit/iommu-vtd/acpi": 12,
  "@iommu-kit/iommu-vtd/di": 21,
  "@iommu-kit/iommu-vtd/inspect": 16,
  "@iommu-kit/iommu-vtd/snapshot": 8,
  "@iommu-kit/iommu-vtd/testing": 8,
  "@iommu-kit/notifier-vfio": 12,
  "@iommu-kit/notifier-vfio/di": 12,
  "@iommu-kit/notifier-vfio/vfio-user": 12,
  "@iommu-kit/notifier-cache": 8,
  "@iommu-kit/notifier-cache/di": 9,
  "@iommu-kit/notifier-cache/vhost-user": 10,
  "@iommu-kit/notifier-cache/worker": 10,
};

const packages = publishedPackages();

/** @type {Check[]} */
const alone = packages.flatMap(({ name, entries }) => {
  const others = packages.flatMap((other) => (other.name === name ? [] : [other.name, `${other.name}/*`]));
  return entries.map(({ specifier, code }) => {
    const limit = budgets[specifier];
    if (limit === undefined) throw new Error(`${specifier} has no size budget: add one to .ci/size-limit.mjs`);
    return {
      name: specifier,
      path: fromHere(code),
      limit: `${limit} kB`,
      gzip: true,
      ignore: ["tsyringe", "reflect-metadata", "node:*", ...others],
      modifyEsbuildConfig: keepExports,
    };
  });
});

/** @type {Check} */
const together = {
  name: "core and vtd, main entries together",
  path: fromHere("packages/iommu-vtd/dist/index.js"),
  limit: "20 kB",
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
 * size-limit resolves paths from this folder.
 * @param {string} file relative to the root, or absolute
 */
function fromHere(file) {
  return file.startsWith(root) ? relative(`${root}/.ci`, file) : `../${file}`;
}
