"""Random requests signed by the carriers' own Python libraries, and what these libraries say about `smsbridge simulate`.

Reads one JSON document from standard input and writes one to standard output, both described in ../carriers.rs.
Every request is verified by the library before it is sent, also where the library only verifies and the signature is
made here by the carrier's documentation.
"""

import base64
import hashlib
import hmac
import importlib.util
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import jwt
from bird.resources.webhooks import Webhooks
from nacl.signing import SigningKey
from plivo.utils import validate_signature
from plivo.utils.signature_v3 import construct_get_url, construct_post_url, get_signature_v3, validate_v3_signature
from sinch.domains.authentication.sinch_events.v1 import authentication_validation as sinch
from sinch.domains.conversation.sinch_events.v1.conversation_sinch_event import ConversationSinchEvent
from sinch.domains.sms.sinch_events.v1.sms_sinch_event import SmsSinchEvent
from telnyx.lib.webhook_verification import verify_webhook_signature
from twilio.request_validator import RequestValidator, get_signature_algorithm
from vonage_http_client.auth import Auth
from vonage_jwt.verify_jwt import verify_signature

FORM = "application/x-www-form-urlencoded"
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz ABC 0123456789",
    "+&=%?#;/\\\"'<>(){}[]|~^`$,.:!@*_-",
    "äöüßéñçøåÀ£€¥",
    "中文短信テスト한국어",
    "שלוםمرحبا\u200f\u202e",
    "😀👩‍👩‍👧‍👦🇩🇪👍🏽",
    "e\u0301\u00a0\u2028\ufeff\t\r\n",
]
# The longest query of a GET: the daemon limits the head of a request to 16 KiB.
QUERY_MAX = 12_000
QUERIES = [
    "a=%2b&b",
    "c==&d=+x",
    "e=%F0%9F%98%80&e=2",
    "f='()*!~",
    "x=1;y=2",
    "q=%20%0A&q=",
    "%C3%A4=1&=2",
    "a[]=2&a[]=1&a[]=2",
    "&&k",
    "z=a%2Fb/c?d",
    "long=" + "0123456789" * 60,
]


def load(package, *path):
    """Loads one file of a package without the package's own imports."""
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location(path[-1], Path(folder, *path).with_suffix(".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


signalwire = load("signalwire", "core", "security", "webhook_validator")


class Request:
    """As the daemon gets it; `message` is the id and the text that must be stored."""

    def __init__(self, path, headers, body=b"", method="POST", message=None):
        self.path, self.headers, self.method, self.message = path, headers, method, message
        self.body = body if isinstance(body, bytes) else body.encode()

    @property
    def url(self):
        return PUBLIC + self.path

    @property
    def is_json(self):
        return "json" in self.headers.get("content-type", "")

    def pairs(self):
        encoded = urlsplit(self.url).query if self.method == "GET" else self.body.decode()
        return parse_qsl(encoded, keep_blank_values=True)

    def with_(self, **changes):
        fields = {"path": self.path, "headers": self.headers, "body": self.body, "method": self.method}
        return Request(**{**fields, **changes})


class Fields(dict):
    """A form as Django gives it to Twilio's library: all values of each name."""

    def __init__(self, pairs):
        super().__init__()
        for name, value in pairs:
            self.setdefault(name, []).append(value)

    def getlist(self, name):
        return self[name]


class Chance(random.Random):
    """Everything that is chosen at random."""

    def one_in(self, count):
        return self.randrange(count) == 0

    def text(self):
        length = self.choice([0, 1, 5, 40, 160, 400]) if not self.one_in(20) else self.randrange(1000, 4000)
        alphabets = self.sample(ALPHABETS, self.randint(1, 3))
        return "".join(self.choice(self.choice(alphabets)) for _ in range(length))

    def hex(self, digits):
        return f"{self.getrandbits(4 * digits):0{digits}x}"

    def number(self):
        return self.choice(["+1404555%04d", "+47591%06d", "+49151%08d"]) % self.randrange(10_000)

    def sender(self):
        return self.number() if not self.one_in(5) else self.choice(["Google", "AB-CTAXKR", "12345", "Frische Brötchen"])

    def query(self):
        return "?" + self.choice(QUERIES) if self.one_in(3) else ""

    def extra(self):
        """Fields that the carrier adds, some of them several times."""
        names = ["Extra", "a", "A", "ünï", "x y", "a1", "Zip+4"]
        return [(self.choice(names), self.text()[:20]) for _ in range(self.choice([0, 0, 1, 3, 6]))]

    def form(self, pairs):
        encode = self.choice([quote_plus, quote, lambda text: quote_plus(text, safe="~!*'()")])
        encoded = "&".join(f"{encode(name)}={encode(value)}" for name, value in pairs)
        return encoded.replace("%2B", "%2b") if self.one_in(4) else encoded

    def json(self, document):
        separators = self.choice([(",", ":"), (", ", ": ")])
        return json.dumps(document, ensure_ascii=self.one_in(2), separators=separators, indent=self.choice([None, None, 1]))

    def changed(self, content):
        """The same bytes but for one."""
        at = self.randrange(len(content))
        other = self.choice([byte for byte in b"0123456789abcdefXYZ" if byte != content[at]])
        return content[:at] + bytes([other]) + content[at + 1 :]


class Oracle:
    """One source of the daemon. `key` is the secret in its configuration."""

    def __init__(self, source, key):
        self.source, self.key = source, key
        self.path = f"/inbound/{source}"

    def changed(self, request, chance):
        """One byte of the body is another, of a GET one byte of the query."""
        if request.method == "GET":
            path, query = request.path.split("?", 1)
            return request.with_(path=f"{path}?{chance.changed(query.encode()).decode()}")
        return request.with_(body=chance.changed(request.body))

    def is_valid(self, request):
        try:
            return bool(self.verify(request))
        except Exception:
            return False


class Twilio(Oracle):
    settings = {}

    def request(self, chance):
        sid, text = "SM" + chance.hex(32), chance.text()
        validator = RequestValidator(self.key)
        base = self.path + chance.query()
        algorithm = get_signature_algorithm(self.settings.get("x-twilio-webhooks-signature-settings"))
        port = chance.choice(["", "", ":443"])
        if chance.one_in(6):
            data = {"messageSid": sid, "from": chance.number(), "to": chance.number(), "body": text, "numMedia": 0}
            event = {"specversion": "1.0", "type": "com.twilio.messaging.inbound-message.received", "data": data}
            body = chance.json([event] if chance.one_in(2) else event)
            path = f"{base}{'&' if '?' in base else '?'}bodySHA256={validator.compute_hash(body)}"
            request = Request(path, {"content-type": "application/json"}, body, message=(sid, text))
            params = None
        else:
            pairs = [("MessageSid", sid), ("From", chance.sender()), ("To", chance.number()), ("Body", text)]
            pairs += [("NumSegments", "1"), ("SmsStatus", "received")] + chance.extra()
            chance.shuffle(pairs)
            form = chance.form(pairs)
            if len(form) < QUERY_MAX and chance.one_in(5):
                request = Request(f"{self.path}?{form}", {}, method="GET", message=(sid, text))
                params = None
            else:
                request = Request(base, {"content-type": FORM}, form, message=(sid, text))
                params = Fields(pairs)
        url = request.url.replace("sms.example.com", "sms.example.com" + port)
        signature = validator.compute_signature(url, params, algorithm)
        request.headers |= {"x-twilio-signature": signature, **self.settings}
        return request

    def verify(self, request):
        params = None if request.method == "GET" else Fields(request.pairs())
        if request.is_json:
            params = request.body.decode()
        algorithm = get_signature_algorithm(request.headers.get("x-twilio-webhooks-signature-settings"))
        signature = request.headers["x-twilio-signature"]
        return RequestValidator(self.key).validate(request.url, params, signature, algorithm)


class TwilioShared(Twilio):
    settings = {"x-twilio-webhooks-signature-settings": "key=webhooks_sharedkey_01,algorithm=HMAC_SHA256"}


class SignalWire(Oracle):
    """The URL may contain the credentials of the webhook."""

    login = "u:p%3A%40%2F%20x"
    credentials = {"authorization": "Basic " + base64.b64encode(b"u:p:@/ x").decode()}

    def urls(self, request):
        return [request.url, request.url.replace("https://", f"https://{self.login}@")]

    def request(self, chance):
        sid, text = chance.hex(32), chance.text()
        base = self.path + chance.query()
        if chance.one_in(4):
            message = {"id": sid, "from": chance.number(), "to": chance.number(), "body": text}
            body = chance.json({"message": message, "vars": {}, "envs": {}})
            request = Request(base, {"content-type": "application/json"}, body, message=(sid, text))
            signature = signalwire._hex_hmac_sha1(self.key, chance.choice(self.urls(request)) + body)
        else:
            pairs = [("MessageSid", sid), ("From", chance.sender()), ("To", chance.number()), ("Body", text)]
            pairs += chance.extra()
            chance.shuffle(pairs)
            form = chance.form(pairs)
            is_get = len(form) < QUERY_MAX and chance.one_in(5)
            path, body = (f"{self.path}?{form}", "") if is_get else (base, form)
            method = "GET" if is_get else "POST"
            request = Request(path, {} if is_get else {"content-type": FORM}, body, method, (sid, text))
            signed = chance.choice(self.urls(request)) + signalwire._sorted_concat_params([] if is_get else pairs)
            signature = signalwire._b64_hmac_sha1(self.key, signed)
        name = chance.choice(["x-signalwire-signature", "x-twilio-signature"])
        request.headers |= {name: signature, **self.credentials}
        return request

    def verify(self, request):
        headers = request.headers
        signature = headers.get("x-signalwire-signature") or headers["x-twilio-signature"]
        body = request.body.decode()
        return any(
            signalwire.validate_webhook_signature(self.key, signature, url, body) for url in self.urls(request)
        )


class Plivo(Oracle):
    def request(self, chance):
        uuid, text, nonce = chance.hex(32), chance.text(), str(chance.getrandbits(64))
        is_v3 = chance.one_in(2)
        pairs = [("MessageUUID", uuid), ("From", chance.sender().strip("+")), ("To", chance.number().strip("+"))]
        pairs += [("Text", text), ("Units", "1"), ("Type", "sms")] + chance.extra()
        chance.shuffle(pairs)
        base = self.path + chance.query()
        # Plivo's library cannot read a query beyond ASCII.
        if is_v3:
            base = self.path + chance.choice(["", "?k=v", "?b=2&a=%2b+1&b=1", "?e=&z=%26%3D"])
        request = Request(base, {"content-type": FORM}, chance.form(pairs), message=(uuid, text))
        if not is_v3:
            signed = (PUBLIC + self.path + nonce).encode()
            mac = hmac.new(self.key.encode(), signed, hashlib.sha256).digest()
            version, signature = "v2", base64.b64encode(mac).decode()
        elif text.isascii() and len(text) < QUERY_MAX // 6 and chance.one_in(3):
            pairs = [(name, value) for name, value in pairs if value.isascii() and name.isascii()]
            request = Request(f"{self.path}?{chance.form(pairs)}", {}, method="GET", message=(uuid, text))
            if (text, uuid) != (dict(pairs).get("Text"), dict(pairs).get("MessageUUID")):
                return self.request(chance)
            version, signature = "v3", get_signature_v3(self.key, construct_get_url(request.url, {}).decode(), nonce)
        else:
            signed = construct_post_url(request.url, Fields(pairs)).decode()
            version, signature = "v3", get_signature_v3(self.key, signed, nonce)
        signature = signature.decode() if isinstance(signature, bytes) else signature
        if version == "v3" and chance.one_in(4):
            signature = "AAAA," + signature
        request.headers |= {f"x-plivo-signature-{version}": signature, f"x-plivo-signature-{version}-nonce": nonce}
        return request

    def changed(self, request, chance):
        """Version 2 signs no field: the nonce is changed."""
        if "x-plivo-signature-v2" not in request.headers:
            return super().changed(request, chance)
        nonce = chance.changed(request.headers["x-plivo-signature-v2-nonce"].encode()).decode()
        return request.with_(headers=request.headers | {"x-plivo-signature-v2-nonce": nonce})

    def verify(self, request):
        headers = request.headers
        if "x-plivo-signature-v2" in headers:
            nonce, signature = headers["x-plivo-signature-v2-nonce"], headers["x-plivo-signature-v2"]
            return validate_signature(request.url, nonce, signature, self.key)
        nonce, signature = headers["x-plivo-signature-v3-nonce"], headers["x-plivo-signature-v3"]
        params = dict(Fields(request.pairs())) if request.method == "POST" else {}
        return validate_v3_signature(request.method, request.url, nonce, self.key, signature, params)


class Telnyx(Oracle):
    """`key` is the seed of the private key."""

    def request(self, chance):
        id, text, now = chance.hex(32), chance.text(), str(int(time.time()) + chance.randint(-200, 200))
        payload = {"id": id, "direction": "inbound", "text": text, "record_type": "message", "type": "SMS", "media": []}
        payload["from"] = {"phone_number": chance.sender(), "carrier": chance.text()[:20]}
        payload["to"] = [{"phone_number": chance.number(), "status": "webhook_delivered"}]
        body = chance.json({"data": {"event_type": "message.received", "id": chance.hex(32), "payload": payload}})
        signature = SigningKey(bytes.fromhex(self.key)).sign(f"{now}|{body}".encode()).signature
        headers = {"telnyx-timestamp": now, "telnyx-signature-ed25519": base64.b64encode(signature).decode()}
        headers["content-type"] = "application/json"
        return Request(self.path + chance.query(), headers, body, message=(id, text))

    def verify(self, request):
        public = SigningKey(bytes.fromhex(self.key)).verify_key.encode()
        verify_webhook_signature(request.body, request.headers, base64.b64encode(public).decode())
        return True


class VonageMessages(Oracle):
    def request(self, chance):
        id, text = chance.hex(32), chance.text()
        message = {"channel": "sms", "message_type": "text", "message_uuid": id, "text": text}
        message |= {"from": chance.sender().strip("+"), "to": chance.number().strip("+")}
        body = chance.json(message).encode()
        claims = {"iss": "Vonage", "iat": int(time.time()), "jti": chance.hex(32), "api_key": "abcd1234"}
        claims["payload_hash"] = hashlib.sha256(body).hexdigest()
        headers = {"authorization": "Bearer " + jwt.encode(claims, self.key, "HS256"), "content-type": "application/json"}
        return Request(self.path + chance.query(), headers, body, message=(id, text))

    def changed(self, request, chance):
        """Another body, which the library does not check, or another claim."""
        if chance.one_in(2):
            return super().changed(request, chance)
        head, claims, signature = request.headers["authorization"].split(".")
        token = f"{head}.{chance.changed(claims.encode()).decode()}.{signature}"
        return request.with_(headers=request.headers | {"authorization": token})

    def verify(self, request):
        token = request.headers["authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, options={"verify_signature": False})
        is_body = claims["payload_hash"] == hashlib.sha256(request.body).hexdigest()
        return verify_signature(token, self.key) and is_body


class VonageSms(Oracle):
    def auth(self):
        method = self.source.removeprefix("vonage-hmac-")
        return Auth(api_key="abcd1234", signature_secret=self.key, signature_method=method)

    def request(self, chance):
        id, text = chance.hex(16), chance.text()
        params = {"msisdn": chance.sender().strip("+"), "to": chance.number().strip("+"), "messageId": id}
        params |= {"text": text, "type": "text", "api-key": "abcd1234", "timestamp": str(int(time.time()))}
        params |= {"nonce": chance.hex(32), "keyword": chance.text()[:10]} | dict(chance.extra())
        params["sig"] = self.auth().sign_params(dict(params))
        if chance.one_in(4):
            params["sig"] = params["sig"].upper()
        form = chance.choice(["json", "query", "form"])
        if form == "json":
            return Request(self.path, {"content-type": "application/json"}, chance.json(params), message=(id, text))
        encoded = chance.form(params.items())
        if form == "query" and len(encoded) < QUERY_MAX:
            return Request(f"{self.path}?{encoded}", {}, method="GET", message=(id, text))
        return Request(self.path + chance.query(), {"content-type": FORM}, encoded, message=(id, text))

    def verify(self, request):
        params = json.loads(request.body) if request.is_json else dict(request.pairs())
        return self.auth().check_signature(params)


class Sinch(Oracle):
    def request(self, chance):
        id, text, nonce = chance.hex(26), chance.text(), chance.hex(26)
        sender, ours, now = chance.sender().strip("+"), chance.number().strip("+"), str(int(time.time()))
        if chance.one_in(2):
            event = {"type": "mo_text", "id": id, "from": sender, "to": ours, "body": text}
            event["received_at"] = "2026-01-01T12:00:00.000Z"
        else:
            content = {"text_message": {"text": text}}
            identity = {"channel": "SMS", "identity": sender, "app_id": ""}
            message = {"id": id, "direction": "TO_APP", "contact_message": content, "channel_identity": identity}
            event = {"app_id": "A", "project_id": "P", "message": message | {"sender_id": ours}}
        body = chance.json(event)
        signed = sinch.compute_signed_data(body, nonce, now)
        headers = {"content-type": chance.choice(["application/json", "application/json; charset=utf-8"])}
        headers["x-sinch-webhook-signature"] = sinch.calculate_sinch_event_signature(signed, self.key)
        headers |= {"x-sinch-webhook-signature-nonce": nonce, "x-sinch-webhook-signature-timestamp": now}
        headers["x-sinch-webhook-signature-algorithm"] = "HmacSHA256"
        return Request(self.path + chance.query(), headers, body, message=(id, text))

    def verify(self, request):
        events = [SmsSinchEvent(self.key), ConversationSinchEvent(self.key)]
        return all(event.validate_authentication_header(request.headers, request.body) for event in events)


class Bird(Oracle):
    def request(self, chance):
        id, text, now = "sms_" + chance.hex(26), chance.text(), str(int(time.time()))
        absent = "tags metadata requested_language resolved_language template_id template_version_id template_content_hash"
        data = dict.fromkeys(absent.split()) | {"sms_id": id, "workspace_id": "ws_1", "country_code": "US", "text": text}
        data |= {"from": chance.number(), "to": chance.number()}
        data["segments"] = {"count": 1, "encoding": "GSM_7BIT", "characters": len(text)}
        body = chance.json({"type": "sms.received", "timestamp": "2026-01-01T12:00:00Z", "data": data})
        key = base64.b64decode(self.key.removeprefix("whsec_"))
        name = "msg_" + chance.hex(26)
        mac = hmac.new(key, f"{name}.{now}.{body}".encode(), hashlib.sha256).digest()
        signature = "v1," + base64.b64encode(mac).decode()
        if chance.one_in(3):
            signature = "v1,AAAA " + signature
        headers = {"webhook-id": name, "webhook-timestamp": now, "webhook-signature": signature}
        headers["content-type"] = "application/json"
        return Request(self.path + chance.query(), headers, body, message=(id, text))

    def verify(self, request):
        try:
            Webhooks(SimpleNamespace(), self.key).unwrap(request.body, request.headers)
        except Exception as error:
            # `simulate` leaves out fields that the library's model requires; the signature is valid then.
            return "verified webhook payload is not a valid event" in str(error)
        return True


ORACLES = {
    "twilio": Twilio,
    "twilio-shared": TwilioShared,
    "signalwire": SignalWire,
    "plivo": Plivo,
    "telnyx": Telnyx,
    "vonage-messages": VonageMessages,
    "vonage-hmac-md5": VonageSms,
    "vonage-hmac-sha1": VonageSms,
    "vonage-hmac-sha256": VonageSms,
    "vonage-hmac-sha512": VonageSms,
    "sinch": Sinch,
    "bird": Bird,
}


def post(request):
    """The status of the daemon's answer."""
    connection = HTTPConnection(urlsplit(DAEMON).netloc, timeout=30)
    connection.putrequest(request.method, request.path)
    for name, value in request.headers.items():
        connection.putheader(name, value)
    connection.putheader("content-length", str(len(request.body)))
    connection.endheaders(request.body)
    return connection.getresponse().status


def pair(oracle, chance):
    """A request that the library accepts, and one that it does not."""
    request = oracle.request(chance)
    if not oracle.is_valid(request):
        return request, None
    for _ in range(100):
        changed = oracle.changed(request, chance)
        if not oracle.is_valid(changed):
            return request, changed
    return request, None


def try_daemon(oracle, chance, count, pool):
    pairs = [pair(oracle, chance) for _ in range(count)]
    complaints = [f"case {at}: the library and this file disagree" for at, (_, changed) in enumerate(pairs) if not changed]
    pairs = [(request, changed or request) for request, changed in pairs]
    accepted = list(pool.map(post, [request for request, _ in pairs]))
    refused = list(pool.map(post, [changed for _, changed in pairs]))
    for at, (request, changed) in enumerate(pairs):
        shown = f"{request.method} {request.path[:200]} {request.headers.get('content-type')} {request.body[:300]!r}"
        if accepted[at] != 200:
            complaints.append(f"case {at} is valid, but was answered {accepted[at]}: {shown}")
        if refused[at] != 403:
            complaints.append(f"case {at} is changed, but was answered {refused[at]}: {changed.path[:200]} {shown}")
    return {
        "accepted": accepted.count(200),
        "refused": refused.count(403),
        "stored": [list(request.message) for request, _ in pairs],
        "complaints": complaints[:5],
    }


def judge(oracle, simulated):
    requests = [
        Request(one["path"], one["headers"], one["body"], one["method"])
        for one in simulated
    ]
    wrong = [request for request in requests if not oracle.is_valid(request)]
    return {
        "simulated": len(requests) - len(wrong),
        "complaints": [f"simulated, but not valid: {request.path} {request.body[:300]!r}" for request in wrong[:5]],
    }


task = json.load(sys.stdin)
PUBLIC, DAEMON = task["public_url"], task["daemon"]
answers = {}
with ThreadPoolExecutor(8) as pool:
    for source, kind in ORACLES.items():
        oracle = kind(source, task["keys"][source])
        if "simulated" in task:
            answers[source] = judge(oracle, task["simulated"].get(source, []))
        else:
            chance = Chance(f"{task['seed']} {source}")
            answers[source] = try_daemon(oracle, chance, task["count"], pool)
json.dump(answers, sys.stdout)
