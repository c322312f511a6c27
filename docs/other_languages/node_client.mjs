// A client of kvstore in JavaScript: nothing but the .proto file and gRPC's own packages.
//
//   node node_client.mjs [HOST:PORT] [directory of the proto files]
//
// See docs/other_languages.md for how to run it, and what it prints.

import { randomBytes } from "node:crypto";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const address = process.argv[2] ?? "127.0.0.1:7400";
const protoDirectory = process.argv[3] ?? fileURLToPath(new URL("../../proto", import.meta.url));

const definition = protoLoader.loadSync("kvstore/v1/registers.proto", {
  includeDirs: [protoDirectory],
  keepCase: true, // names as in the .proto file
  longs: String, // 64 bits do not fit a Number
  enums: String,
  defaults: true, // absent lists are [], absent numbers 0; what is `optional` stays absent
});
const { Registers, Cluster, Count } = grpc.loadPackageDefinition(definition).kvstore.v1;
const QUORUM = Count.type.value.find((each) => each.name === "COUNT_QUORUM").number;

/** What went wrong. `definite`: it did not happen and will not. Otherwise a write may have happened, or may yet. */
class StoreError extends Error {
  constructor(failure) {
    super(failure.details);
    // No trailer: the status is from gRPC itself (the connection broke, the deadline passed here). Nobody knows.
    const [trailer] = failure.metadata?.get("kvstore-error-bin") ?? [];
    const told = trailer ? definition["kvstore.v1.Error"].deserialize(trailer) : { code: "unknown", definite: false };
    Object.assign(this, told, { status: grpc.status[failure.code] });
  }
}

/** One unary call as a promise. The deadline of the call is the deadline of the operation. */
function call(client, method, request, timeoutMs = 5_000) {
  return new Promise((resolve, reject) => {
    const options = { deadline: Date.now() + timeoutMs };
    client[method](request, new grpc.Metadata(), options, (failure, reply) =>
      failure ? reject(new StoreError(failure)) : resolve(reply),
    );
  });
}

/** 16 bytes: nanoseconds since 1970, and chance. Repeat a write with the same ones and it is one write. */
function operationId() {
  const id = Buffer.concat([Buffer.alloc(8), randomBytes(8)]);
  id.writeBigUInt64BE(BigInt(Date.now()) * 1_000_000n);
  return id;
}

/** A put that is safe to repeat, and is repeated while that may help. */
async function put(registers, request, attempts = 3) {
  const whole = { ...request, operation_id: operationId() };
  let inDoubt = false;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call(registers, "Put", whole);
    } catch (error) {
      inDoubt ||= !error.definite;
      error.definite = !inDoubt; // a refusal now does not undo what an earlier attempt may have written
      const mayHelp = error.retryable || error.code === "unknown";
      if (!mayHelp || attempt === attempts) throw error;
      await new Promise((wake) => setTimeout(wake, (error.retry_after_s ?? 0.05) * 1_000));
    }
  }
}

const credentials = grpc.credentials.createInsecure();
const registers = new Registers(address, credentials);
const cluster = new Cluster(address, credentials);
const texts = (reply) => reply.siblings.map((sibling) => sibling.value.toString()).join(" | ") || "(not found)";

const about = await call(cluster, "Describe", {});
console.log(`cluster "${about.cluster_name}", ${about.members.length} node(s), N=${about.n}`);

const object = { bucket: "default", key: Buffer.from(`cart of ${Date.now()}`) };
console.log("at first:           ", texts(await call(registers, "Get", { object })));

const first = await put(registers, { object, value: Buffer.from("apples"), w: QUORUM });
console.log(`put apples:          ${first.acked} of ${first.n} acknowledged, ${first.durable} on disk`);

const second = await put(registers, { object, value: Buffer.from("bread") });
console.log(`put bread, blind:    ${second.siblings} values now; a context to go on with: ${second.context !== undefined}`);

const seen = await call(registers, "Get", { object });
console.log("get:                ", texts(seen));

const merged = seen.siblings.map((sibling) => sibling.value.toString()).sort().join(" and ");
await put(registers, { object, value: Buffer.from(merged), context: seen.context });
const resolved = await call(registers, "Get", { object });
console.log("put with its context:", texts(resolved));

await call(registers, "Delete", { object, context: resolved.context, operation_id: operationId() });
console.log("delete:             ", texts(await call(registers, "Get", { object })));

for (const [what, request] of [
  ["a key of 2,000 bytes", { object: { key: Buffer.alloc(2_000, 1) }, value: Buffer.from("x") }],
  ["an unknown bucket", { object: { bucket: "nowhere", key: Buffer.from("k") }, value: Buffer.from("x") }],
  ["four copies of three", { object, value: Buffer.from("x"), w: 4 }],
]) {
  const error = await put(registers, request).catch((problem) => problem);
  const numbers = JSON.stringify(error.numbers ?? {});
  console.log(`${what}: ${error.status} ${error.code} definite=${error.definite} ${numbers} "${error.message}"`);
}
registers.close();
cluster.close();
