// A package registry on this machine: Verdaccio on the loopback address, for one scope, without a way out. Nothing else is installed from it.
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { npmInstall } from "./proofs.mjs";
import { run } from "./workspace.mjs";

/** Runs on Node 20. One of its dependencies is asked for by a tag, which not every mirror of the registry has. */
const VERDACCIO = { dependencies: { verdaccio: "6.2.1" }, overrides: { "node-fetch": "2.6.7" } };
const SCOPE = "@iommu-kit";
const START_SECONDS = 90;

/** @typedef {{ versions: Record<string, Record<string, unknown>>, "dist-tags": Record<string, string> }} PackageDocument */

/** A registry that runs. */
export class LocalRegistry {
  /** @readonly @type {import("node:child_process").ChildProcess} */
  #process;
  /** Where it is. */
  url;
  /** Lines of an `.npmrc` that installs the scope from it. */
  npmrc;
  /** Lines of an `.npmrc` that may also publish. */
  publisherNpmrc;

  /**
   * @param {import("node:child_process").ChildProcess} process
   * @param {string} url
   * @param {string} token
   */
  constructor(process, url, token) {
    this.#process = process;
    this.url = url;
    this.npmrc = `${SCOPE}:registry=${url}\n`;
    this.publisherNpmrc = `${this.npmrc}${url.replace("http:", "")}:_authToken=${token}\n`;
  }

  /**
   * What it knows of a package; `undefined`: nothing.
   * @param {string} name
   * @returns {Promise<PackageDocument | undefined>}
   */
  async document(name) {
    const response = await fetch(`${this.url}${name.replace("/", "%2f")}`);
    return response.ok ? /** @type {PackageDocument} */ (await response.json()) : undefined;
  }

  stop() {
    this.#process.kill();
  }
}

/**
 * Installs the registry into a folder and starts it.
 * @param {string} folder
 * @returns {Promise<LocalRegistry>}
 */
export async function startRegistry(folder) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "registry", private: true, ...VERDACCIO }));
  const installed = await run(npmInstall([]), { cwd: folder });
  if (installed.code !== 0) throw new Error(`Verdaccio could not be installed:\n${installed.output}`);
  const config = {
    storage: join(folder, "storage"),
    auth: { htpasswd: { file: join(folder, "htpasswd"), max_users: 1 } },
    uplinks: {},
    packages: { [`${SCOPE}/*`]: { access: "$all", publish: "$authenticated" } },
    web: { enable: false },
    log: { type: "stdout", format: "pretty", level: "error" },
  };
  // JSON is YAML.
  writeFileSync(join(folder, "config.yaml"), JSON.stringify(config));
  const url = `http://127.0.0.1:${await freePort()}/`;
  const program = join(folder, "node_modules", "verdaccio", "bin", "verdaccio");
  const words = [program, "--config", join(folder, "config.yaml"), "--listen", url];
  const child = spawn(process.execPath, words, { cwd: folder, stdio: ["ignore", "inherit", "inherit"] });
  try {
    await answers(url);
    return new LocalRegistry(child, url, await newToken(url));
  } catch (error) {
    child.kill();
    throw error;
  }
}

/** @param {string} url */
async function answers(url) {
  const until = performance.now() + START_SECONDS * 1_000;
  while (performance.now() < until) {
    const isUp = await fetch(`${url}-/ping`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (isUp) return;
    await setTimeout(200);
  }
  throw new Error(`the registry did not answer within ${START_SECONDS} s`);
}

/**
 * A user who may publish.
 * @param {string} url
 * @returns {Promise<string>}
 */
async function newToken(url) {
  const response = await fetch(`${url}-/user/org.couchdb.user:proof`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ name: "proof", password: "only-on-this-machine", type: "user", roles: [] }),
  });
  const { token } = /** @type {{ token?: string }} */ (await response.json());
  if (token === undefined) throw new Error(`the registry gave no token (${response.status})`);
  return token;
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((settle) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => settle(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}
