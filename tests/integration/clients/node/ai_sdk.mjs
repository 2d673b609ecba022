// The AI SDK with `@ai-sdk/openai-compatible`.
import * as report from "./report.mjs";

const { generateObject, generateText, jsonSchema, streamText, tool } = report.load("ai");
const { createOpenAICompatible } = report.load("@ai-sdk/openai-compatible");
const provider = createOpenAICompatible({
  name: "streaming-inference",
  baseURL: report.baseUrl,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const ask = (fields) => ({ model: provider(report.model), prompt: report.question, maxRetries: 0, ...fields });
const greedy = (fields) => ask({ temperature: 0, maxOutputTokens: report.maxTokens, ...fields });
const counts = (usage) => [usage.inputTokens, usage.outputTokens];

async function whole() {
  const { text, finishReason, usage } = await generateText(greedy());
  return { text, finish_reason: finishReason, usage: counts(usage) };
}

// The SDK gives errors of a stream to `onError` and ends the text.
async function parts(fields) {
  let failure;
  const result = streamText(greedy({ onError: ({ error }) => (failure = error), ...fields }));
  const read = [];
  for await (const part of result.textStream) read.push(part);
  if (failure) throw failure;
  return { result, read };
}

async function streamed() {
  const { result, read } = await parts();
  return { parts: read, finish_reason: await result.finishReason, usage: counts(await result.usage) };
}

async function left() {
  const abort = new AbortController();
  const long = { model: provider(report.single), maxOutputTokens: report.longAnswerTokens };
  const result = streamText(ask({ ...long, abortSignal: abort.signal, onError: () => {} }));
  for await (const _ of result.textStream) break;
  abort.abort();
  return report.seconds(() => generateText(ask({ model: provider(report.single), maxOutputTokens: 2 })));
}

async function tools() {
  const Weather = tool({ description: "The weather in a city", inputSchema: jsonSchema(report.weather) });
  const { toolCalls } = await generateText(ask({ tools: { Weather }, toolChoice: "required" }));
  return toolCalls.map((call) => ({ name: call.toolName, arguments: call.input }));
}

const unknown = { model: provider("nothing") };
const tooLong = { prompt: report.tooLong };
await report.run(
  {
    default: async () => (await generateText(ask())).text,
    whole,
    streamed,
    unknown_model: () => report.error(() => generateText(greedy(unknown))),
    too_long: () => report.error(() => generateText(greedy(tooLong))),
    too_long_streamed: () => report.error(() => parts(tooLong)),
    left,
    schema: async () => (await generateObject(ask({ schema: jsonSchema(report.animal) }))).object,
    tools,
  },
  { schema: "structured_output", tools: "tools" },
);
