// Shows that the clients can be imported by the Node.js of this machine.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const address = { baseURL: "http://127.0.0.1:9/v1", apiKey: "none" };
const model = createOpenAICompatible({ name: "halny", ...address }).chatModel("minilm");
const found = {
  openai: typeof new OpenAI(address).chat.completions.create,
  ai: typeof generateText,
  streaming: typeof streamText,
  provider: model.modelId,
};
console.log(JSON.stringify(found));
