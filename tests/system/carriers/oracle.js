// Random requests signed for the carriers' own JavaScript libraries, and what these libraries say about `smsbridge
// simulate`. Reads one JSON document from standard input and writes one to standard output, both described in
// ../carriers.rs. Every request is verified by the library before it is sent. The libraries are found by NODE_PATH.
"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const { PassThrough } = require("node:stream");

const plivo = require("plivo");
const twilio = require("twilio");
const { RestClient } = require("@signalwire/compatibility-api");
const { verifySignature } = require("@vonage/jwt");
const SnsValidator = require("sns-validator");
const { TelnyxWebhook } = require("telnyx/lib/webhooks");

const FORM = "application/x-www-form-urlencoded";
const ALPHABETS = [
  "abcdefghijklmnopqrstuvwxyz ABC 0123456789",
  "+&=%?#;/\\\"'<>(){}[]|~^`$,.:!@*_-",
  "äöüßéñçøåÀ£€¥",
  "中文短信テスト한국어",
  "שלוםمرحبا\u200f\u202e",
  "😀👩‍👩‍👧‍👦🇩🇪👍🏽",
  "e\u0301\u00a0\u2028\ufeff\t\r\n",
];
const QUERIES = ["a=%2b&b", "c==&d=+x", "e=%F0%9F%98%80&e=2", "f='()*!~", "x=1;y=2", "q=%20%0A&q=", "%C3%A4=1&=2", "a[]=2&a[]=1"];

const task = JSON.parse(fs.readFileSync(0, "utf8"));

// Everything that is chosen at random: mulberry32.
class Chance {
  constructor(seed) {
    this.state = crypto.createHash("sha256").update(seed).digest().readUInt32LE(0);
  }
  next() {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (mixed ^ (mixed >>> 14)) >>> 0;
  }
  below(limit) {
    return this.next() % limit;
  }
  oneIn(count) {
    return this.below(count) === 0;
  }
  choice(list) {
    return list[this.below(list.length)];
  }
  text() {
    const length = this.oneIn(20) ? 1000 + this.below(3000) : this.choice([0, 1, 5, 40, 160, 400]);
    const alphabets = [this.choice(ALPHABETS), this.choice(ALPHABETS)].map((all) => [...all]);
    return Array.from({ length }, () => this.choice(this.choice(alphabets))).join("");
  }
  hex(digits) {
    return Array.from({ length: digits }, () => this.below(16).toString(16)).join("");
  }
  number() {
    return this.choice(["+1404555", "+47591", "+49151"]) + String(100000 + this.below(900000));
  }
  query() {
    return this.oneIn(3) ? "?" + this.choice(QUERIES) : "";
  }
  // Fields that the carrier adds.
  extra(repeated) {
    const names = repeated ? ["Extra", "a", "a", "A", "ünï", "x y"] : ["Extra", "a", "A", "ünï", "x y"].sort(() => this.below(3) - 1);
    const count = this.choice([0, 1, 3, 5]);
    return Array.from({ length: count }, (_, at) => [repeated ? this.choice(names) : names[at], this.text().slice(0, 20).toWellFormed?.() ?? "x"]);
  }
  changed(content) {
    const bytes = Buffer.from(content);
    const at = this.below(bytes.length);
    bytes[at] = this.choice([..."0123456789abcdefXYZ"].map((c) => c.charCodeAt(0)).filter((byte) => byte !== bytes[at]));
    return bytes;
  }
}

function form(pairs, chance) {
  const encode = chance.choice([encodeURIComponent, (text) => encodeURIComponent(text).replace(/%20/g, "+"), (text) => encodeURIComponent(text).replace(/%2B/g, "%2b")]);
  return pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&");
}

function fields(request) {
  const fields = {};
  for (const [name, value] of new URLSearchParams(request.body.toString())) {
    if (name in fields) fields[name] = [].concat(fields[name], value);
    else fields[name] = value;
  }
  return fields;
}

const url = (request) => task.public_url + request.path;
const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");
const hmac = (key, text) => crypto.createHmac("sha256", key).update(text).digest("base64");

// Each makes a request, changes one byte of it, and verifies one. `repeated` fields only where both sides define their order.
class Oracle {
  constructor(source) {
    this.source = source;
    this.key = task.keys[source];
    this.path = `/inbound/${source}`;
  }
  changed(request, chance) {
    return { ...request, body: chance.changed(request.body) };
  }
  async isValid(request) {
    try {
      return await this.verify(request);
    } catch {
      return false;
    }
  }
  form(chance, repeated) {
    const id = chance.hex(32);
    const text = chance.text();
    const pairs = [["MessageSid", id], ["From", chance.number()], ["To", chance.number()], ["Body", text], ...chance.extra(repeated)];
    const body = Buffer.from(form(pairs, chance));
    return { method: "POST", path: this.path + chance.query(), headers: { "content-type": FORM }, body, message: [id, text] };
  }
}

class Twilio extends Oracle {
  request(chance) {
    if (chance.oneIn(5)) {
      const [id, text] = [chance.hex(32), chance.text()];
      const data = { messageSid: id, from: chance.number(), to: chance.number(), body: text };
      const body = JSON.stringify([{ type: "com.twilio.messaging.inbound-message.received", data }]);
      const path = `${this.path}?x=%20&bodySHA256=${twilio.getExpectedBodyHash?.(body) ?? sha256(body)}`;
      const request = { method: "POST", path, headers: { "content-type": "application/json" }, body: Buffer.from(body), message: [id, text] };
      return this.sign(request, {});
    }
    const request = this.form(chance, true);
    return this.sign(request, fields(request));
  }
  sign(request, params) {
    request.headers["x-twilio-signature"] = twilio.getExpectedTwilioSignature(this.key, url(request), params);
    return request;
  }
  verify(request) {
    const signature = request.headers["x-twilio-signature"];
    if (request.headers["content-type"] === FORM) return twilio.validateRequest(this.key, signature, url(request), fields(request));
    return twilio.validateRequestWithBody(this.key, signature, url(request), request.body.toString());
  }
}

class SignalWire extends Oracle {
  request(chance) {
    const request = this.form(chance, false);
    // The library re-encodes some characters of a query before it verifies.
    request.path = this.path + chance.choice(["", "?k=v", "?a=%2b&b=+"]);
    const names = Object.entries(fields(request)).sort(([one], [other]) => (one < other ? -1 : 1));
    const signed = url(request) + names.map(([name, value]) => name + value).join("");
    const signature = crypto.createHmac("sha1", this.key).update(signed).digest("base64");
    request.headers["x-signalwire-signature"] = signature;
    request.headers.authorization = "Basic " + Buffer.from("u:p:@/ x").toString("base64");
    return request;
  }
  verify(request) {
    return RestClient.validateRequest(this.key, request.headers["x-signalwire-signature"], url(request), fields(request));
  }
}

class Plivo extends Oracle {
  request(chance) {
    const [id, text, nonce] = [chance.hex(32), chance.text(), String(chance.next())];
    const pairs = [["MessageUUID", id], ["From", chance.number().slice(1)], ["To", chance.number().slice(1)], ["Text", text], ...chance.extra(false)];
    const version = chance.choice(["v2", "v3"]);
    const query = chance.choice(["", "?k=v", "?b=2&a=%2b+1&b=1"]);
    const body = Buffer.from(form(pairs, chance));
    const request = { method: "POST", path: this.path + query, headers: { "content-type": FORM }, body, message: [id, text] };
    let signed = task.public_url + this.path;
    if (version === "v3") {
      const inQuery = [...new URLSearchParams(query)].map((pair) => pair.join("=")).sort().join("&");
      const inBody = Object.entries(fields(request)).sort(([one], [other]) => (one < other ? -1 : 1)).map((pair) => pair.join(""));
      signed += `?${inQuery}${query && "."}${inBody.join("")}.`;
    }
    request.headers[`x-plivo-signature-${version}`] = hmac(this.key, signed + nonce);
    request.headers[`x-plivo-signature-${version}-nonce`] = nonce;
    return request;
  }
  // Version 2 signs no field: the nonce is changed.
  changed(request, chance) {
    const nonce = request.headers["x-plivo-signature-v2-nonce"];
    if (!nonce) return super.changed(request, chance);
    return { ...request, headers: { ...request.headers, "x-plivo-signature-v2-nonce": chance.changed(nonce).toString() } };
  }
  verify({ headers, ...request }) {
    const [v2, v3] = ["v2", "v3"].map((version) => headers[`x-plivo-signature-${version}`]);
    if (v2) return plivo.validateSignature(url(request), headers["x-plivo-signature-v2-nonce"], v2, this.key);
    return plivo.validateV3Signature("POST", url(request), headers["x-plivo-signature-v3-nonce"], this.key, v3, fields(request));
  }
}

class Telnyx extends Oracle {
  constructor(source) {
    super(source);
    const der = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), Buffer.from(this.key, "hex")]);
    this.secret = crypto.createPrivateKey({ key: der, format: "der", type: "pkcs8" });
    this.public = crypto.createPublicKey(this.secret).export({ format: "der", type: "spki" }).subarray(-32).toString("base64");
  }
  request(chance) {
    const [id, text, now] = [chance.hex(32), chance.text(), String(Math.floor(Date.now() / 1000) + chance.below(200))];
    const payload = { id, text, from: { phone_number: chance.number() }, to: [{ phone_number: chance.number(), status: "webhook_delivered" }] };
    const body = Buffer.from(JSON.stringify({ data: { event_type: "message.received", id: chance.hex(32), payload } }, null, chance.below(3)));
    const signature = crypto.sign(null, Buffer.concat([Buffer.from(`${now}|`), body]), this.secret).toString("base64");
    const headers = { "content-type": "application/json", "telnyx-timestamp": now, "telnyx-signature-ed25519": signature };
    return { method: "POST", path: this.path + chance.query(), headers, body, message: [id, text] };
  }
  async verify(request) {
    await new TelnyxWebhook(this.public).verify(request.body.toString(), request.headers);
    return true;
  }
}

class VonageMessages extends Oracle {
  request(chance) {
    const [id, text] = [chance.hex(32), chance.text()];
    const message = { channel: "sms", message_type: "text", message_uuid: id, from: chance.number().slice(1), to: chance.number().slice(1), text };
    const body = Buffer.from(JSON.stringify(message, null, chance.below(3)));
    const claims = { iss: "Vonage", iat: Math.floor(Date.now() / 1000), jti: chance.hex(32), payload_hash: sha256(body) };
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
    const mac = crypto.createHmac("sha256", this.key).update(signed).digest("base64url");
    const headers = { "content-type": "application/json", authorization: `Bearer ${signed}.${mac}` };
    return { method: "POST", path: this.path + chance.query(), headers, body, message: [id, text] };
  }
  // The library does not compare the body.
  verify(request) {
    const token = request.headers.authorization.replace(/^Bearer /, "");
    const claims = JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
    return verifySignature(token, this.key) && claims.payload_hash === sha256(request.body);
  }
}

class Sns extends Oracle {
  constructor(source) {
    super(source);
    this.validator = new SnsValidator();
    // The certificate is on disk: the validator fetches nothing.
    https.get = (_, answer) => {
      const response = Object.assign(new PassThrough(), { statusCode: 200 });
      answer(response);
      response.end(this.key.certificate);
      return { on() {} };
    };
  }
  request(chance) {
    const [id, text, version] = [chance.hex(32), chance.text(), chance.choice(["1", "2"])];
    const inner = { originationNumber: chance.number(), destinationNumber: chance.number(), messageBody: text, inboundMessageId: id };
    const envelope = {
      Type: "Notification",
      MessageId: chance.hex(32),
      TopicArn: this.key.topic,
      Message: JSON.stringify(inner),
      Timestamp: new Date().toISOString(),
      SigningCertURL: this.key.url,
      SignatureVersion: version,
      UnsubscribeURL: "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe",
    };
    if (chance.oneIn(3)) envelope.Subject = chance.text().slice(0, 20).toWellFormed?.() ?? "x";
    const names = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"].filter((name) => name in envelope);
    const signed = names.map((name) => `${name}\n${envelope[name]}\n`).join("");
    envelope.Signature = crypto.sign(version === "1" ? "sha1" : "sha256", Buffer.from(signed), this.key.private).toString("base64");
    return this.posted(envelope, [id, text]);
  }
  posted(envelope, message) {
    const headers = { "content-type": "text/plain; charset=UTF-8" };
    return { method: "POST", path: this.path, headers, body: Buffer.from(JSON.stringify(envelope)), message };
  }
  // One byte of a signed field.
  changed(request, chance) {
    const envelope = JSON.parse(request.body);
    const name = chance.choice(["Message", "MessageId", "Timestamp", "Signature"]);
    return this.posted({ ...envelope, [name]: chance.changed(envelope[name]).toString() });
  }
  verify(request) {
    return new Promise((resolve) => this.validator.validate(request.body.toString(), (error) => resolve(!error)));
  }
}

const ORACLES = { twilio: Twilio, signalwire: SignalWire, plivo: Plivo, telnyx: Telnyx, "vonage-messages": VonageMessages, aws: Sns };

// The status of the daemon's answer.
function post({ method, path, headers, body }) {
  const { hostname, port } = new URL(task.daemon);
  return new Promise((resolve, reject) => {
    const options = { hostname, port, method, path, headers: { ...headers, "content-length": body.length }, agent: false };
    const request = http.request(options, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function postAll(requests) {
  const statuses = [];
  for (let at = 0; at < requests.length; at += 8) statuses.push(...(await Promise.all(requests.slice(at, at + 8).map(post))));
  return statuses;
}

// A request that the library accepts, and one that it does not.
async function pair(oracle, chance) {
  const request = oracle.request(chance);
  if (!(await oracle.isValid(request))) return [request, null];
  for (let round = 0; round < 100; round += 1) {
    const changed = oracle.changed(request, chance);
    if (!(await oracle.isValid(changed))) return [request, changed];
  }
  return [request, null];
}

async function tryDaemon(oracle) {
  const chance = new Chance(`${task.seed} ${oracle.source}`);
  const pairs = [];
  for (let at = 0; at < task.count; at += 1) pairs.push(await pair(oracle, chance));
  const accepted = await postAll(pairs.map(([request]) => request));
  const refused = await postAll(pairs.map(([request, changed]) => changed ?? request));
  const complaints = pairs.flatMap(([request, changed], at) => {
    const shown = `${request.path.slice(0, 200)} ${request.body.toString().slice(0, 300)}`;
    const found = changed ? [] : [`case ${at}: the library and this file disagree: ${shown}`];
    if (accepted[at] !== 200) found.push(`case ${at} is valid, but was answered ${accepted[at]}: ${shown}`);
    if (refused[at] !== 403) found.push(`case ${at} is changed, but was answered ${refused[at]}: ${shown}`);
    return found;
  });
  return {
    accepted: accepted.filter((status) => status === 200).length,
    refused: refused.filter((status) => status === 403).length,
    stored: pairs.map(([request]) => request.message),
    complaints: complaints.slice(0, 5),
  };
}

async function judge(oracle) {
  const requests = (task.simulated[oracle.source] ?? []).map((one) => ({ ...one, body: Buffer.from(one.body) }));
  const wrong = [];
  for (const request of requests) if (!(await oracle.isValid(request))) wrong.push(`simulated, but not valid: ${request.path} ${request.body}`);
  return { simulated: requests.length - wrong.length, complaints: wrong.slice(0, 5) };
}

async function main() {
  const answers = {};
  for (const [source, Kind] of Object.entries(ORACLES)) {
    const oracle = new Kind(source);
    answers[source] = await (task.simulated ? judge(oracle) : tryDaemon(oracle));
  }
  process.stdout.write(JSON.stringify(answers));
}

main();
