// A folder served on this machine and opened in a headless Chromium, spoken with over its own protocol. Needs Node 22 or newer.

import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";

const TYPES = {
  ".html": "text/html",
  ".css": "text/css",
  ".js": "text/javascript",
  ".svg": "image/svg+xml",
  ".png": "image/png",
  ".woff": "font/woff",
  ".woff2": "font/woff2",
};

/**
 * Serves `folder` and opens a page. `events` are what the browser told, `errors()` those that say that a script failed;
 * `evaluate(body)` has the page run the body of an async function and returns what that returns.
 */
export async function start(chromium, folder) {
  const server = createServer(({ url }, answer) => {
    const path = new URL(url, "http://localhost").pathname;
    try {
      const body = readFileSync(join(folder, decodeURIComponent(path)));
      answer.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "text/plain" }).end(body);
    } catch {
      answer.writeHead(path === "/favicon.ico" ? 204 : 404).end();
    }
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));

  const profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
  const browser = spawn(chromium, [...flags, "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"]);
  const address = await new Promise((found, failed) => {
    let text = "";
    browser.stderr.on("data", (data) => {
      text += data;
      const match = /DevTools listening on (\S+)/.exec(text);
      if (match) found(match[1]);
    });
    browser.on("exit", (code) => failed(new Error(`${chromium} ended with ${code}: ${text.slice(-2000)}`)));
  });
  const socket = new WebSocket(address);
  await new Promise((ready) => socket.addEventListener("open", ready));

  const [waiting, events] = [new Map(), []];
  let [sent, session] = [0, undefined];
  socket.addEventListener("message", ({ data }) => {
    const message = JSON.parse(data);
    if (!message.id) return events.push(message);
    const { done, failed } = waiting.get(message.id);
    if (message.error) failed(new Error(JSON.stringify(message.error)));
    else done(message.result);
  });
  const send = (method, params = {}) =>
    new Promise((done, failed) => {
      waiting.set(++sent, { done, failed });
      socket.send(JSON.stringify({ id: sent, method, params, sessionId: session }));
    });
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  ({ sessionId: session } = await send("Target.attachToTarget", { targetId, flatten: true }));
  for (const part of ["Page", "Runtime", "Network", "Performance"]) await send(`${part}.enable`);

  async function evaluate(body) {
    const { result, exceptionDetails } = await send("Runtime.evaluate", {
      expression: `(async () => { ${body} })()`,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails) throw new Error(`${body}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  const errors = () =>
    events
      .filter(
        ({ method, params }) =>
          method === "Runtime.exceptionThrown" || (method === "Runtime.consoleAPICalled" && params.type === "error"),
      )
      .map(({ params }) => params.exceptionDetails?.exception?.description ?? JSON.stringify(params.args));

  async function close() {
    browser.removeAllListeners("exit");
    browser.kill();
    server.close();
    socket.close();
    await new Promise((done) => setTimeout(done, 300));
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }

  return { origin: `http://127.0.0.1:${server.address().port}`, events, errors, send, evaluate, close };
}
