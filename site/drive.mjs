// Opens pages of the built site in a headless Chromium and prints, as JSON, what a reader would run into.
//
//   node drive.mjs CHROMIUM SITE page ...                  each at 390 and 1,280 pixels
//   node drive.mjs CHROMIUM SITE --shots FOLDER page ...   a picture of each at both widths, light and dark, instead

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { start } from "./figures/chromium.mjs";

const [chromium, site, ...rest] = process.argv.slice(2);
const shots = rest[0] === "--shots" ? rest.splice(0, 2)[1] : null;
const { origin, events, errors, send, evaluate, close } = await start(chromium, site);

async function open(page, width, dark = false) {
  events.length = 0;
  const mobile = width < 600;
  await send("Emulation.setDeviceMetricsOverride", { width, height: 844, deviceScaleFactor: mobile && !shots ? 2 : 1, mobile });
  const features = [
    { name: "prefers-color-scheme", value: dark ? "dark" : "light" },
    { name: "prefers-reduced-motion", value: "reduce" },
  ];
  await send("Emulation.setEmulatedMedia", { media: "", features });
  await send("Page.navigate", { url: `${origin}/${page}` });
  await evaluate(`for (let i = 0; i < 800 && (location.href === "about:blank" || document.readyState !== "complete"); i++)
    await new Promise((done) => setTimeout(done, 25));
    await globalThis.MathJax?.startup?.promise;
    await document.fonts.ready;
    for (const image of document.images) image.loading = "eager";
    await Promise.allSettled([...document.images].map((image) => image.decode()));
    await new Promise((done) => setTimeout(done, 150));`);
}

const seen = () =>
  evaluate(`const wide = document.documentElement.scrollWidth;
  const inner = [...document.querySelectorAll("article *, .bd-header-article *")];
  const scrolls = (node) => node && (["auto", "scroll", "hidden"].includes(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  return {
    wide,
    sticks: inner.filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node.parentElement))
      .map((node) => node.outerHTML.slice(0, 160)).slice(0, 5),
    images: document.images.length,
    broken: [...document.images].filter((image) => image.checkVisibility() && !image.naturalWidth).map((image) => image.src),
    silent: [...document.images].filter((image) => !image.alt).map((image) => image.src),
    formulas: document.querySelectorAll("mjx-container").length,
    unset: document.querySelectorAll("mjx-merror").length,
    folded: document.querySelectorAll("details.hide").length,
    unfolded: document.querySelectorAll("details.hide[open]").length,
    living: [...document.querySelectorAll(".living")].filter((node) => node.living?.numbers()).length,
    still: document.querySelectorAll(".living").length,
  };`);

const outside = () =>
  events
    .filter(({ method, params }) => method === "Network.requestWillBeSent" && !/^(data|blob):/.test(params.request.url))
    .map(({ params }) => params.request.url)
    .filter((url) => !url.startsWith(origin));
const missing = () =>
  events
    .filter(({ method, params }) => method === "Network.responseReceived" && params.response.status >= 400)
    .map(({ params }) => params.response.url);

/** The rows that the claims' table shows when a reader has chosen. */
const chosen = (name, value) =>
  evaluate(`const form = document.getElementById("claims-filter");
  form.elements[${JSON.stringify(name)}].value = ${JSON.stringify(value)};
  form.elements[${JSON.stringify(name)}].dispatchEvent(new Event("change"));
  return {
    rows: [...document.querySelectorAll("table.claims tr[id]")].filter((row) => row.checkVisibility()).map((row) => row.id),
    says: document.getElementById("claims-count").textContent,
    address: location.search,
  };`);

async function filtered() {
  await open("claims.html", 1280);
  const found = { refuted: await chosen("verdict", "refuted"), adams: await chosen("optimizer", "Adams") };
  await evaluate(`document.getElementById("claims-filter").reset(); await new Promise((done) => setTimeout(done, 50));`);
  found.all = await chosen("verdict", "");
  await open("claims.html?evidence=exhaustive", 1280);
  found.linked = await chosen("verdict", "");
  return found;
}

async function searched(word) {
  await open(`search.html?q=${word}`, 1280);
  return evaluate(`for (let i = 0; i < 200 && !document.querySelector("#search-results li a"); i++)
    await new Promise((done) => setTimeout(done, 50));
    return [...document.querySelectorAll("#search-results li a")].map((node) => node.getAttribute("href"));`);
}

/** The page after its own switch was set to dark. */
async function darkened() {
  await open("index.html", 1280);
  return evaluate(`document.querySelector(".theme-change-button[data-mode=dark]").click();
    await new Promise((done) => setTimeout(done, 300));
    return [document.documentElement.dataset.theme, getComputedStyle(document.body).backgroundColor];`);
}

try {
  const result = { pages: {} };
  for (const page of rest) {
    for (const width of [390, 1280]) {
      for (const dark of shots ? [false, true] : [false]) {
        await open(page, width, dark);
        if (shots) {
          const height = Math.min(await evaluate("return document.documentElement.scrollHeight;"), 9000);
          const clip = { x: 0, y: 0, width, height, scale: 1 };
          const { data } = await send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true, clip });
          const name = `${page.replace(/\.html$/, "").replaceAll("/", "-")}_${width}_${dark ? "dark" : "light"}.png`;
          writeFileSync(join(shots, name), Buffer.from(data, "base64"));
        } else {
          const found = { ...(await seen()), errors: errors(), outside: outside(), missing: missing() };
          result.pages[`${page} ${width}`] = found;
        }
      }
    }
  }
  if (!shots) Object.assign(result, { filter: await filtered(), search: await searched("thermostat"), dark: await darkened() });
  console.log(JSON.stringify(result, null, 1));
} finally {
  await close();
}
