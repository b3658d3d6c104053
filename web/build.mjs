/** Bundles what `pipecat.js` imports, copies the font, and collects the licences of both. */

import { readFile, copyFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import esbuild from "esbuild";

const FONT = "@fontsource/noto-sans-kannada";
const FONT_FILE = "noto-sans-kannada-kannada-400-normal.woff2";

// Licences of packages that carry none of their own, and of code copied into a package.
const BSD_2 = "node_modules/@pipecat-ai/small-webrtc-transport/LICENSE"; // of the same authors
const WAVTOOLS = `wavtools (inside @pipecat-ai/small-webrtc-transport)
MIT License

Copyright (c) 2024 Keith Horwood
Copyright (c) 2024 OpenAI

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`;

async function notice(name) {
  const folder = join("node_modules", name);
  const about = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file && !name.startsWith("@pipecat-ai/")) throw new Error(`${name} has no licence file`);
  const text = await readFile(file ? join(folder, file) : BSD_2, "utf8");
  return `${name} ${about.version} (${about.license})\n\n${text.trim()}\n`;
}

const out = process.argv[2];
const { metafile } = await esbuild.build({
  entryPoints: ["pipecat.js"],
  outfile: join(out, "pipecat.js"),
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  alias: { "@daily-co/daily-js": "./no-daily.js" },
  banner: { js: "/* Pipecat's JavaScript client, see LICENSES.txt; built by web/build.mjs. */" },
  legalComments: "none",
  metafile: true,
});
const inside = Object.entries(Object.values(metafile.outputs)[0].inputs)
  .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
  .map(([path]) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1])
  .filter(Boolean);
const names = [...new Set(inside), FONT].sort();
const notices = [...(await Promise.all(names.map(notice))), WAVTOOLS];
await copyFile(join("node_modules", FONT, "files", FONT_FILE), join(out, "noto-sans-kannada.woff2"));
await writeFile(join(out, "LICENSES.txt"), notices.join(`\n${"-".repeat(79)}\n\n`));
