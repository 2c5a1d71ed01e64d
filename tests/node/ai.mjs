// Vercel's AI SDK against a language model: `node ai.mjs ADDRESS`. Prints what it saw as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";

const provider = createOpenAICompatible({
  name: "halny",
  baseURL: `${process.argv[2]}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const asked = {
  model: provider.chatModel("gemma"),
  system: "Be brief.",
  prompt: "Count to three.",
  temperature: 0,
  maxOutputTokens: 8,
  maxRetries: 0,
};
// Where white space may stand, a model without tuning writes a lot of it.
const described = { ...asked, system: undefined, prompt: "Describe an animal as JSON.", maxOutputTokens: 400 };
const schema = jsonSchema({
  type: "object",
  properties: { kind: { enum: ["cat", "dog"] }, legs: { type: "integer", minimum: 0, maximum: 8 } },
  required: ["kind", "legs"],
  additionalProperties: false,
});

async function whole() {
  const { text, finishReason, usage } = await generateText(asked);
  return { text, reason: finishReason, usage };
}

async function streamed() {
  const answer = streamText(asked);
  let [text, chunks] = ["", 0];
  for await (const part of answer.textStream) {
    text += part;
    chunks += 1;
  }
  return { text, chunks, reason: await answer.finishReason, usage: await answer.usage };
}

async function aborted() {
  const control = new AbortController();
  const model = provider.chatModel("gemma");
  const answer = streamText({ ...asked, model, maxOutputTokens: 3000, abortSignal: control.signal, onError() {} });
  let [chunks, ended] = [0, false];
  for await (const part of answer.fullStream) {
    if (part.type === "text-delta") chunks += 1;
    if (part.type === "abort") ended = true;
    if (chunks === 3) control.abort();
  }
  return { chunks, ended };
}

async function structured() {
  const { output } = await generateText({ ...described, output: Output.object({ schema }) });
  return output;
}

async function partial() {
  const answer = streamText({ ...described, output: Output.object({ schema }) });
  let last = null;
  for await (const object of answer.partialOutputStream) last = object;
  return { last, output: await answer.output };
}

async function called() {
  const weather = tool({
    description: "The weather in a town.",
    inputSchema: jsonSchema({
      type: "object",
      properties: { city: { enum: ["Oslo", "Kyiv"] } },
      required: ["city"],
      additionalProperties: false,
    }),
    execute: async ({ city }) => `rain in ${city}`,
  });
  const request = { ...asked, model: provider.chatModel("caller"), tools: { weather }, maxOutputTokens: 1000 };
  const forced = { ...request, toolChoice: "required", stopWhen: stepCountIs(1), seed: 1, temperature: 1 };
  const { toolCalls, toolResults, finishReason } = await generateText(forced);
  const stream = streamText(forced);
  const calls = await stream.toolCalls;
  return {
    names: [toolCalls[0].toolName, calls[0].toolName],
    inputs: [toolCalls[0].input, calls[0].input],
    result: toolResults[0].output,
    reason: finishReason,
  };
}

async function completed() {
  const model = provider.completionModel("gemma");
  const { text, usage } = await generateText({ ...asked, system: undefined, model, stopSequences: ["\n"] });
  return { text, usage };
}

// A prompt is read once; only those that find it read compute the same sums.
await whole();
const found = {};
for (const part of [whole, streamed, aborted, structured, partial, called, completed]) {
  found[part.name] = await part();
}
console.log(JSON.stringify(found));
