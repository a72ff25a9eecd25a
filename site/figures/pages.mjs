// Writes each figure's still <name>.svg, for print, and its page <name>.html, for an iframe:   node pages.mjs [FOLDER]

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { numbersOf, still } from "./common.js";
import { names } from "./index.js";

const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/"/g, "&quot;");

const page = ({ name, title, caption }, alt) => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>
  :root { color-scheme: light dark; }
  body { margin: 8px auto; padding: 0 8px; max-width: 960px; background: #fff; color: #1b1f24; font: 15px/1.45 system-ui, sans-serif; }
  img { width: 100%; background: #fff; }
  @media (prefers-color-scheme: dark) { body { background: #0e1216; color: #e8ebee; } }
  @media print { body { background: none; } }
</style>
</head>
<body>
<div id="figure">
<img src="${name}.svg" alt="${escape(alt)}">
<p><strong>${escape(title)}</strong> ${escape(caption)}</p>
</div>
<script type="module">
  import { mount } from "./${name}.js";
  mount(document.getElementById("figure"));
</script>
</body>
</html>
`;

const folder = process.argv[2] ?? import.meta.dirname;
for (const name of names) {
  const { default: figure } = await import(`./${name}.js`);
  writeFileSync(join(folder, `${name}.svg`), still(figure));
  const alt = figure.says(numbersOf(figure, figure.still), { ...figure.state, ...figure.still });
  writeFileSync(join(folder, `${name}.html`), page(figure, alt));
}
