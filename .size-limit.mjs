// Budgets of what a browser downloads, minified and gzipped. Every entry point of every package needs one: a new subpath
// without a budget fails here. Subpaths are measured without the other packages and without optional peers.
import { relative } from "node:path";
import { publishedPackages, root } from "./.ci/workspace.mjs";

/** Budgets in kB by import specifier. */
const budgets = {
  "@iommu-kit/iommu-core": 6,
  "@iommu-kit/iommu-core/di": 2,
  "@iommu-kit/iommu-core/testing": 16,
  "@iommu-kit/iommu-vtd": 16,
  "@iommu-kit/iommu-vtd/di": 18,
  "@iommu-kit/notifier-vfio": 8,
  "@iommu-kit/notifier-vfio/di": 9,
  "@iommu-kit/notifier-cache": 8,
  "@iommu-kit/notifier-cache/di": 9,
};

const packages = publishedPackages();
const others = (name) => packages.map((pkg) => pkg.name).filter((other) => other !== name);
const entries = packages.flatMap((pkg) => pkg.entries.map((entry) => ({ ...entry, owner: pkg.name })));

const alone = entries.map(({ specifier, code, owner }) => {
  const limit = budgets[specifier];
  if (limit === undefined) throw new Error(`${specifier} has no size budget: add one to .size-limit.mjs`);
  const ignore = ["tsyringe", "reflect-metadata", ...others(owner).flatMap((name) => [name, `${name}/*`])];
  return { name: specifier, path: relative(root, code), limit: `${limit} kB`, gzip: true, ignore };
});

const main = (name) => `packages/${name}/dist/index.js`;
export default [
  ...alone,
  {
    name: "core and vtd together",
    path: [main("iommu-core"), main("iommu-vtd")],
    import: { [main("iommu-core")]: "*", [main("iommu-vtd")]: "*" },
    limit: "20 kB",
    gzip: true,
  },
];
