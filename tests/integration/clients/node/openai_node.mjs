// The package `openai`.
import * as report from "./report.mjs";

const { OpenAI } = report.load("openai");
const client = new OpenAI({ baseURL: report.baseUrl, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: report.question }];
const chat = (fields) => client.chat.completions.create({ model: report.model, messages, ...fields });
const greedy = (fields) => chat({ temperature: 0, max_tokens: report.maxTokens, ...fields });
const counts = (usage) => [usage.prompt_tokens, usage.completion_tokens];

async function chunks(fields) {
  const read = [];
  for await (const chunk of await greedy({ stream: true, ...fields })) read.push(chunk);
  return read;
}

async function whole() {
  const { choices, usage } = await greedy();
  return { text: choices[0].message.content, finish_reason: choices[0].finish_reason, usage: counts(usage) };
}

async function streamed() {
  const read = await chunks({ stream_options: { include_usage: true } });
  const choices = read.flatMap((chunk) => chunk.choices);
  return {
    parts: choices.map((choice) => choice.delta.content).filter(Boolean),
    finish_reason: choices.find((choice) => choice.finish_reason).finish_reason,
    usage: counts(read.at(-1).usage),
  };
}

async function left() {
  const stream = await chat({ model: report.single, max_tokens: report.longAnswerTokens, stream: true });
  for await (const _ of stream) break; // which aborts the request
  return report.seconds(() => chat({ model: report.single, max_tokens: 2 }));
}

async function schema() {
  const json_schema = { name: "animal", strict: true, schema: report.animal };
  const { choices } = await chat({ response_format: { type: "json_schema", json_schema } });
  return JSON.parse(choices[0].message.content);
}

async function tools() {
  const tool = { type: "function", function: { name: "Weather", parameters: report.weather } };
  const { choices } = await chat({ tools: [tool], tool_choice: "required" });
  const calls = choices[0].message.tool_calls.map((call) => call.function);
  return calls.map((call) => ({ name: call.name, arguments: JSON.parse(call.arguments) }));
}

const tooLong = { messages: [{ role: "user", content: report.tooLong }] };
await report.run(
  {
    default: async () => (await chat()).choices[0].message.content,
    whole,
    streamed,
    unknown_model: () => report.error(() => greedy({ model: "nothing" })),
    too_long: () => report.error(() => greedy(tooLong)),
    too_long_streamed: () => report.error(() => chunks(tooLong)),
    left,
    schema,
    tools,
  },
  { schema: "structured_output", tools: "tools" },
);
