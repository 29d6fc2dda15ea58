// Puts calls to a server through stubs that are made at run time, and prints what came of them.
//
//     node ask.js ADDRESS proto FOLDER             stubs from the .proto files below FOLDER
//     node ask.js ADDRESS reflection v1|v1alpha    stubs from what the server tells of itself
//
// Stdin has the calls as JSON, put one after the other:
// [{service, method, requests, copies: how many at once, deadline_ms, cancel: after the first answer}].
// Stdout has for each a list of {code, details, status_details, answers}, one for each copy. Messages are
// written as protobuf's JSON: bytes in base64, 64-bit numbers and enums as texts.
'use strict';

const fs = require('fs');
const grpc = require('@grpc/grpc-js');
const health = require('grpc-health-check');
const protoLoader = require('@grpc/proto-loader');
const { GrpcReflection } = require('grpc-js-reflection-client');

const MESSAGES = { keepCase: true, longs: String, enums: String, bytes: String };
const STATUS_DETAILS = 'grpc-status-details-bin';

async function packages(address, source, what, service) {
  if (source === 'proto') {
    const files = ['headrace_proto/v1/inference.proto', health.protoPath];
    const definition = protoLoader.loadSync(files, { ...MESSAGES, includeDirs: [what] });
    return grpc.loadPackageDefinition(definition);
  }
  const reflection = new GrpcReflection(address, grpc.credentials.createInsecure(), {}, what);
  return (await reflection.getDescriptorBySymbol(service)).getPackageObject(MESSAGES);
}

function exchange(client, definition, { method, requests, deadline_ms, cancel }) {
  const options = deadline_ms ? { deadline: Date.now() + deadline_ms } : {};
  return new Promise((resolve) => {
    const answers = [];
    const outcome = ({ code, details, metadata }) => ({
      code: grpc.status[code],
      details,
      status_details: metadata.get(STATUS_DETAILS).map((value) => value.toString('base64')),
      answers,
    });
    if (!definition.responseStream) {
      const keep = (error, answer) => answer && answers.push(answer);
      client[method](requests[0], options, keep).on('status', (status) => resolve(outcome(status)));
      return;
    }
    const call = definition.requestStream ? client[method](options) : client[method](requests[0], options);
    const status = new Promise((known) => call.on('status', known));
    call.on('error', () => {}); // the status tells it
    call.on('data', (answer) => {
      answers.push(answer);
      if (cancel) call.cancel();
    });
    call.on('end', async () => resolve(outcome(await status)));
    if (definition.requestStream) {
      requests.forEach((request) => call.write(request));
      if (!cancel) call.end();
    }
  });
}

async function main() {
  const [address, source, what] = process.argv.slice(2);
  const outcomes = [];
  for (const asked of JSON.parse(fs.readFileSync(0, 'utf8'))) {
    const found = await packages(address, source, what, asked.service);
    const Client = asked.service.split('.').reduce((folder, name) => folder[name], found);
    const client = new Client(address, grpc.credentials.createInsecure());
    const copies = Array.from({ length: asked.copies ?? 1 }, () =>
      exchange(client, Client.service[asked.method], asked),
    );
    outcomes.push(await Promise.all(copies));
    client.close();
  }
  process.stdout.write(JSON.stringify(outcomes), () => process.exit(0)); // reflection's connection stays open
}

main();
