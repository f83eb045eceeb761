/**
 * Serves a directory over HTTP on this machine only: what any static host does, and nothing more.
 */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
};

/** A server that runs. */
export interface StaticServer {
  readonly url: string;
  close(): Promise<void>;
}

/** Serves `directory` on `port` of the loopback address; 0 for any that is free. */
export async function serve(directory: string, port: number): Promise<StaticServer> {
  const server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname));
    const file = join(directory, path.endsWith("/") ? `${path}index.html` : path);
    const refuse = (): void => void response.writeHead(404).end();
    if (!file.startsWith(directory)) {
      refuse();
      return;
    }
    void stat(file).then(({ size }) => {
      response.writeHead(200, {
        "content-type": TYPES[extname(file)] ?? "application/octet-stream",
        "content-length": size,
      });
      createReadStream(file).pipe(response);
    }, refuse);
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  const address = server.address();
  const own = typeof address === "object" && address !== null ? address.port : port;
  return {
    url: `http://127.0.0.1:${own}/`,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
