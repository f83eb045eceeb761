// Conventions of the workspace that no other tool checks. Each problem is one line that says what to do.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { memberFolders, publishedPackages, readJson, root } from "./workspace.mjs";

/** @type {string[]} */
const problems = [];

/** @type {{ references: { path: string }[] }} */
const build = readJson(join(root, "tsconfig.build.json"));
const built = new Set(build.references.map(({ path }) => path));
for (const folder of memberFolders()) {
  const compiled = existsSync(join(root, folder, "tsconfig.json")) && existsSync(join(root, folder, "src"));
  if (compiled && !built.has(folder)) problems.push(`${folder} is not compiled: list it in tsconfig.build.json`);
}

const license = readFileSync(join(root, "LICENSE"), "utf8");
for (const { shortName, directory } of publishedPackages()) {
  const file = join(directory, "LICENSE");
  if (!existsSync(file) || readFileSync(file, "utf8") !== license) {
    problems.push(`packages/${shortName}/LICENSE differs from LICENSE: copy it`);
  }
}

const vagueName = /^(utils?|helpers?|managers?|common|misc)\b/;
const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], {
  cwd: root,
  encoding: "utf8",
});
for (const file of files.split("\n").filter((name) => name.endsWith(".ts"))) {
  if (vagueName.test(basename(file))) problems.push(`${file}: name the file for the one concept it holds`);
}

for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;
