// JavaScript clients, unchanged: `node javascript_clients.mjs CLIENT URL IMAGE MASK` prints what it returned as JSON.
import fs from "node:fs";
import * as ai from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import OpenAI, { toFile } from "openai";

const [client, url, image, mask] = process.argv.slice(2);
const prompt = "a small red circle above a large blue square";

async function openai() {
  const api = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
  const file = (path) => toFile(fs.createReadStream(path), "a.png", { type: "image/png" });
  const answers = [
    await api.images.generate({ prompt, n: 2, quality: "high", moderation: "low", size: "auto", seed: 7 }),
    await api.images.edit({ prompt, image: await file(image), mask: await file(mask), input_fidelity: "high" }),
  ];
  const images = answers.flatMap((answer) => answer.data);
  for await (const event of await api.images.generate({ prompt, stream: true, partial_images: 2, seed: 7 }))
    if (event.type === "image_generation.completed" && event.usage.output_tokens === 64) images.push(event);
  return images;
}

/** Vercel's ai: generates and edits with a model of one of its providers. */
async function vercel(model) {
  const generate = ai.generateImage ?? ai.experimental_generateImage;
  const edited = { text: prompt, images: [fs.readFileSync(image)], mask: fs.readFileSync(mask) };
  const results = [await generate({ model, prompt, n: 2 }), await generate({ model, prompt: edited })];
  return results.flatMap((result) => result.images).map((one) => ({ b64_json: one.base64 }));
}

const options = { baseURL: url, apiKey: "none" };
const clients = {
  "openai": openai,
  "ai-openai": () => vercel(createOpenAI(options).image("dall-e-3")),
  "ai-compatible": () => vercel(createOpenAICompatible({ name: "emage", ...options }).imageModel("emage")),
};
globalThis.AI_SDK_LOG_WARNINGS = false;
console.log(JSON.stringify(await clients[client]()));
