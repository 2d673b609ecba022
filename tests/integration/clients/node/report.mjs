// What the programs of the Node clients have in common: what they ask, and the report that they print.
//
// node PROGRAM DIRECTORY BASE_URL MODEL ABILITIES: the packages are installed in DIRECTORY. Prints one JSON object, as the Python
// programs do (../report.py).
import { createRequire } from "node:module";
import { join } from "node:path";

const [directory, address, name, abilities] = process.argv.slice(2);
export const load = createRequire(join(directory, "package.json"));
export const baseUrl = `${address}/v1`;
export const model = name;
export const single = "single";
export const question = "Tell me a story about a fox.";
export const maxTokens = 40;
export const longAnswerTokens = 900;
export const tooLong = "fox ".repeat(3000);

export const animal = {
  type: "object",
  properties: {
    kind: { type: "string", enum: ["fox", "cow", "owl"] },
    age: { type: "integer", minimum: 0, maximum: 99 },
    tame: { type: "boolean" },
  },
  required: ["kind", "age", "tame"],
  additionalProperties: false,
};

export const weather = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "London", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};

// What the client throws: its class, the status and the message that came.
export async function error(call) {
  let returned;
  try {
    returned = await call();
  } catch (thrown) {
    const kind = thrown.constructor.name.replace(/^_/, "");
    return { class: kind, status: thrown.status ?? thrown.statusCode ?? null, message: thrown.message };
  }
  throw new Error(`no error, but ${JSON.stringify(returned)}`);
}

// Seconds that `call` takes.
export async function seconds(call) {
  const began = performance.now();
  await call();
  return (performance.now() - began) / 1000;
}

// Does the checks and prints the report. `needs` has the ability that a check needs; without it, it is left out.
export async function run(checks, needs) {
  const report = {};
  for (const [name, check] of Object.entries(checks)) {
    if (name in needs && !abilities.split(",").includes(needs[name])) continue;
    try {
      report[name] = await check();
    } catch (thrown) {
      report[name] = { failed: thrown.stack ?? String(thrown) };
    }
  }
  console.log(JSON.stringify(report));
}
