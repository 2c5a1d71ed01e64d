// OpenAI's client against a language model: `node openai.mjs ADDRESS`. Prints what it saw as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const asked = {
  model: "gemma",
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Count to three." },
  ],
  temperature: 0,
  max_completion_tokens: 8,
};
const schema = {
  type: "object",
  properties: { kind: { enum: ["cat", "dog"] }, legs: { type: "integer", minimum: 0, maximum: 8 } },
  required: ["kind", "legs"],
  additionalProperties: false,
};

async function whole() {
  const answer = await client.chat.completions.create(asked);
  return { text: answer.choices[0].message.content, reason: answer.choices[0].finish_reason, usage: answer.usage };
}

async function streamed() {
  const seen = { text: "", chunks: 0, reason: null, usage: null };
  const events = await client.chat.completions.create({
    ...asked,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of events) {
    seen.chunks += 1;
    seen.text += chunk.choices[0]?.delta.content ?? "";
    seen.reason = chunk.choices[0]?.finish_reason ?? seen.reason;
    seen.usage = chunk.usage ?? seen.usage;
  }
  return seen;
}

async function helped() {
  const runner = client.chat.completions.stream(asked);
  let text = "";
  runner.on("content", (delta) => (text += delta));
  const final = await runner.finalContent();
  return { text, final };
}

async function aborted() {
  const control = new AbortController();
  let chunks = 0;
  const request = { ...asked, max_completion_tokens: 3000, stream: true, ignore_eos: true };
  const events = await client.chat.completions.create(request, { signal: control.signal });
  for await (const _ of events) {
    chunks += 1;
    if (chunks === 3) control.abort();
  }
  return { chunks };
}

async function structured() {
  const answer = await client.chat.completions.create({
    ...asked,
    messages: [{ role: "user", content: "Describe an animal as JSON." }],
    // Where white space may stand, a model without tuning writes a lot of it.
    max_completion_tokens: 400,
    response_format: { type: "json_schema", json_schema: { name: "animal", strict: true, schema } },
  });
  return JSON.parse(answer.choices[0].message.content);
}

async function responded() {
  const request = { model: "gemma", input: "Count to three.", max_output_tokens: 6, temperature: 0 };
  const answer = await client.responses.create(request);
  let text = "";
  for await (const event of await client.responses.create({ ...request, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  return { text: answer.output_text, streamed: text, usage: answer.usage };
}

async function refused() {
  try {
    await client.chat.completions.create({ ...asked, temperature: 3 });
  } catch (error) {
    return { status: error.status, kind: error.constructor.name, param: error.param };
  }
  return null;
}

// A prompt is read once; only those that find it read compute the same sums.
await whole();
const found = {};
for (const part of [whole, streamed, helped, aborted, structured, responded, refused]) {
  found[part.name] = await part();
}
console.log(JSON.stringify(found));
