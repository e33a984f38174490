"""Drives the page in a real Chromium, as an operator would. Started by tests/system/page.rs, which passes addresses and paths.

A dialog, a console error or a violation of the content policy fails the test: a message must not cause any of them.
"""

import json
import re
import sys
import traceback
import urllib.request
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

GIVEN = json.loads(sys.argv[1])
SHOTS = Path(GIVEN["screenshots"])
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
HOSTILE = (
    "<script>alert('run')</script><img src=x onerror=\"alert('run')\"> <a href=\"javascript:alert('run')\">bank</a> "
    "{{7*7}} </td></tr></table><style>*{display:none}</style> abc\u202efdp.exe \u0007\u200b end"
)

wrong = []
sent = 0


def post(words, sender="+13035550100", **more):
    """Posts a message as the carrier would and returns its id."""
    global sent
    sent += 1
    body = {"refid": f"{sent:032X}", "from": sender, "to": "+13038675309", "message": words, "signature": GIVEN["code"], **more}
    request = urllib.request.Request(GIVEN["inbound"], json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["id"]


def open_page(browser, name, is_failing=False, **options):
    """Opens a page in its own profile and records everything that must not happen. `is_failing`: the test makes requests fail."""
    context = browser.new_context(**options)
    context.set_default_timeout(15_000)
    page = context.new_page()

    def console(message):
        # Expected: requests before the login, and requests that are invalid on purpose.
        url = (message.location or {}).get("url", "")
        expected = ("401" in message.text and url.endswith(("/status", "/login"))) or (
            "400" in message.text and ("from=%2B1*2" in url or url.endswith("/route")))
        if message.type in ("error", "warning") and not expected and not (is_failing and "Failed to load resource" in message.text):
            wrong.append(f"{name}: console: {message.text}")

    def dialog(box):
        wrong.append(f"{name}: a dialog: {box.message}")
        box.dismiss()

    def request(asked):
        if not asked.url.startswith((GIVEN["page"], "data:")):
            wrong.append(f"{name}: asked for {asked.url}")

    page.on("console", console)
    page.on("dialog", dialog)
    page.on("pageerror", lambda error: wrong.append(f"{name}: {error}"))
    page.on("request", request)
    return page


def log_in(page):
    page.goto(GIVEN["page"])
    page.get_by_label("Token").fill(GIVEN["token"])
    page.keyboard.press("Enter")
    expect(page.locator(".live")).to_have_text("Live")


def row(page, words):
    return page.locator("table.messages tbody tr", has_text=words)


def requires_the_token(page):
    page.goto(GIVEN["page"])
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Wrong token")
    log_in(page)
    assert page.evaluate("document.cookie") == "", "scripts can read the cookie"
    for name in ["constructor", "__proto__", "toString"]:
        page.goto(GIVEN["page"] + "#/" + name)
        expect(page).to_have_title("Overview · smsbridge")
    page.goto(GIVEN["page"] + "#/overview")


def shows_a_hint_when_there_are_no_messages(page):
    page.get_by_role("link", name="Messages").click()
    expect(page.locator(".empty")).to_contain_text("smsbridge simulate")


def shows_a_message_when_it_arrives(page):
    post("The back door is open")
    expect(row(page, "The back door is open")).to_be_visible()
    expect(row(page, "The back door is open").locator(".pill")).to_have_text("delivered")
    expect(row(page, "The back door is open")).to_contain_text("Front door")


def follows_a_retry(page):
    message = post("please come later", "+13035550142")
    expect(row(page, "please come later").locator(".pill")).to_have_text("retrying")
    row(page, "please come later").click()
    assert page.url.endswith(message)
    detail = page.get_by_role("dialog", name="Message")
    expect(detail).to_contain_text("503")
    expect(detail.locator(".attempts li")).to_have_count(1)
    expect(detail.locator(".attempts li")).to_have_count(2)
    expect(detail).to_contain_text("at attempt 2")
    expect(row(page, "please come later").locator(".pill")).to_have_text("delivered")
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()


def acknowledges_and_retries_a_dead_delivery(page):
    post("please refuse this", "+13035550177")
    expect(row(page, "please refuse this").locator(".pill")).to_have_text("dead")
    row(page, "please refuse this").focus()
    page.keyboard.press("Enter")
    detail = page.get_by_role("dialog", name="Message")
    expect(detail).to_contain_text("422")
    detail.get_by_role("button", name="Acknowledge").click()
    expect(page.locator(".toast").last).to_have_text("Acknowledged")
    expect(detail.locator(".delivery")).to_contain_text("acknowledged")
    expect(detail.get_by_role("button", name="Acknowledge")).to_have_count(0)
    detail.get_by_role("button", name="Retry now").click()
    expect(page.locator(".toast").last).to_contain_text("Sending to crm now")
    expect(row(page, "please refuse this").locator(".pill")).to_have_text("delivered")
    page.keyboard.press("Escape")


def does_not_preselect_a_resend_that_would_arrive_twice(page):
    post("please refuse this one", "+13035550166")
    expect(row(page, "please refuse this one").locator(".pill")).to_have_text("dead")
    row(page, "please refuse this one").click()
    detail = page.get_by_role("dialog", name="Message")
    detail.get_by_role("button", name="Resend").click()
    asked = page.get_by_role("dialog", name="Resend this message?")
    expect(asked.get_by_label("crm")).to_be_checked()
    expect(asked.locator("label", has_text="crm")).to_have_text("crmdead")
    expect(asked.get_by_label("screen")).not_to_be_checked()
    asked.get_by_role("button", name="Resend").click()
    expect(detail.locator(".delivery")).to_have_count(2)
    expect(detail.locator(".delivery .pill.good").first).to_be_visible()
    expect(detail.locator(".delivery").last).to_contain_text("resent by an operator")
    expect(detail.locator(".delivery").first).to_contain_text("Another delivery to it delivered the message")
    detail.get_by_role("button", name="Resend").click()
    expect(asked.locator("label", has_text="crm")).to_contain_text("delivered")
    expect(asked.locator("label time")).to_have_count(1)
    expect(asked.locator("input:checked")).to_have_count(0)
    asked.get_by_role("button", name="Cancel").click()
    page.keyboard.press("Escape")


def executes_nothing_from_a_message(page):
    post(HOSTILE, "+13035550188")
    found = row(page, "alert('run')")
    expect(found).to_contain_text("<script>")
    expect(found.locator(".unseen").first).to_be_attached()
    found.click()
    said = page.locator(".detail blockquote")
    expect(said).to_contain_text("{{7*7}}")
    expect(said).to_contain_text("RLO")
    assert page.locator("#view script, #view img, blockquote a, blockquote style").count() == 0
    page.keyboard.press("Escape")


def links_only_addresses_that_are_shown_as_they_are(page):
    links = json.loads(Path(GIVEN["links"]).read_text())
    ask = "(texts) => import('/assets/link.js').then(({ isSafeLink }) => texts.filter((text) => isSafeLink(text)))"
    assert len(links["links"]) > 10 and len(links["texts"]) > 60, "few links: is the test blind?"
    assert page.evaluate(ask, links["links"]) == links["links"]
    assert page.evaluate(ask, links["texts"]) == []
    longest = "https://example.com/" + "x" * 2028
    assert page.evaluate(ask, [longest, longest + "x"]) == [longest]
    media = [{"link": link} for link in ("https://example.com/a.jpg", "https://bank.example@evil.example/", "https:\\\\evil.example")]
    post("look at this", "+13035550155", media=media)
    row(page, "look at this").click()
    listed = page.locator(".detail .media")
    expect(listed.locator("li")).to_have_count(3)
    expect(listed).to_contain_text("evil.example")
    shown = listed.locator("a").evaluate_all("(all) => all.map((one) => [one.href, one.textContent])")
    assert shown == [["https://example.com/a.jpg"] * 2], shown
    page.keyboard.press("Escape")


def searches_and_moves_by_keyboard(page):
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("h1", has_text="Overview")).to_be_attached()
    page.keyboard.press("/")
    search = page.get_by_label("Search messages")
    expect(search).to_be_focused()
    page.keyboard.type("BACK door")
    expect(page.locator("table.messages tbody tr")).to_have_count(1)
    search.fill("nothing like this")
    expect(page.locator(".empty")).to_contain_text("No messages match")
    page.get_by_role("button", name="Clear the filters").click()
    rows = page.locator("table.messages tbody tr")
    expect(rows).to_have_count(6)
    rows.first.focus()
    page.keyboard.press("ArrowDown")
    expect(rows.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(rows.nth(1)).to_be_focused()
    page.locator(".more summary").click()
    page.get_by_label("From", exact=True).fill("303")
    page.get_by_label("From", exact=True).fill("+1*2")
    expect(page.locator(".failure")).to_contain_text("from")
    page.get_by_role("button", name="Clear", exact=True).click()
    # The one that was dead was resent and delivered.
    page.locator("select[name=state]").select_option("dead")
    expect(page.locator(".empty")).to_contain_text("No messages match")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(rows).to_have_count(6)


def explains_why_a_delivery_is_pending(page):
    page.get_by_role("link", name="Messages").click()
    row(page, "waits for crm").click()
    delivery = page.locator(".detail .delivery")
    expect(delivery.locator(".standing")).to_have_text("No attempt yet: destination crm is paused by the operator.")
    delivery.get_by_role("button", name="Retry now").click()
    expect(page.locator(".toast").last).to_have_text("Nothing was sent: destination crm is paused by the operator")
    expect(delivery.locator(".attempts")).to_have_count(0)
    page.locator(".detail").get_by_role("button", name="Resend").click()
    asked = page.get_by_role("dialog", name="Resend this message?")
    expect(asked.locator("label", has_text="crm")).to_have_text("crmpending")
    expect(asked.locator("input:checked")).to_have_count(0)
    asked.get_by_role("button", name="Cancel").click()
    page.keyboard.press("Escape")


def does_not_move_what_is_read(page):
    page.get_by_role("link", name="Messages").click()
    rows = page.locator("table.messages tbody tr")
    newer = page.get_by_role("button", name=re.compile("new messages?$"))
    read = rows.first.get_attribute("data-id")
    rows.first.click()
    post("arrives while one is read", "+13035550111")
    expect(newer).to_have_text("1 new message")
    expect(rows.first).to_have_attribute("data-id", read)
    page.keyboard.press("Escape")
    expect(rows.first).to_contain_text("arrives while one is read")
    expect(newer).to_be_hidden()
    page.evaluate("scrollTo(0, 600)")
    where = "(all) => { const row = all.find((one) => one.getBoundingClientRect().top > 100); return [row.dataset.id, row.getBoundingClientRect().top]; }"
    before = rows.evaluate_all(where)
    for number in range(60):
        post(f"arrives while scrolled {number}", f"+1303557{number:04}")
    expect(newer).to_have_text("More than 50 new messages")
    assert rows.evaluate_all(where) == before, "the row that was read moved"
    newer.click()
    expect(rows.first).to_contain_text("arrives while scrolled 59")
    expect(newer).to_be_hidden()


def shows_characters_that_hide_or_overlay(page):
    page.get_by_role("link", name="Messages").click()
    post("hides \U000e0041 \u3164 \u115f \u1160 \uffa0 \u2800, stacks e" + "\u0301" * 100, "+13035550112")
    found = row(page, "hides")
    expect(found.locator(".unseen")).to_have_text(["U+E0041", "U+3164", "U+115F", "U+1160", "U+FFA0", "U+2800", "+94 marks"])
    expect(found).to_have_attribute("aria-label", re.compile(r": hides \[U\+E0041\] \[U\+3164\] .* marks\]$"))
    found.click()
    expect(page.locator(".detail blockquote")).to_have_css("overflow", "clip")
    page.keyboard.press("Escape")


def leaves_gaps_in_the_charts(page):
    drawn = page.evaluate("""() => import('/assets/chart.js').then(({ hour, rates, backlog, span }) => {
        const minute = (at, pending) => ({ at: `2026-01-01T10:${at}:00Z`, accepted: 1, delivered: 1, dead: 0, pending });
        const minutes = hour({ minutes: [minute('00', null), minute('01', 2), minute('02', 2), minute('03', null), minute('04', 2), minute('05', 2)] });
        const size = (draw, kind) => draw(minutes, 600).querySelectorAll(kind).length;
        return [size(rates, 'polyline'), size(rates, 'rect.bar'), size(backlog, 'path.area'), span(minutes).replace(/ .*,/, ' TIME,')];
    })""")
    assert drawn == [2, 4, 2, "since TIME, 1 min without data"], drawn


def claims_only_what_it_knows(browser):
    """Changes the responses of the daemon on their way, because these states last only for moments."""
    page = open_page(browser, "states", is_failing=True)
    change = {"with": lambda status: None}

    def answer(route):
        act = change["with"]
        if isinstance(act, int):
            return route.fulfill(status=act, json={"error": "no"}) if act else route.abort()
        response = route.fetch()
        status = response.json()
        if response.ok:
            status.update(problems=[], destinations=[{**each, "state": "up", "oldest": None, "pending": 0, "last_attempt": None} for each in status["destinations"]])
            act(status)
        return route.fulfill(response=response, json=status)

    page.route("**/api/v1/status", answer)
    log_in(page)
    box = page.locator(".problems")
    title = box.locator("h2")
    expect(title).to_have_text("No problems")
    expect(box).to_have_attribute("data-tone", "good")
    expect(box).not_to_contain_text("succeeded")

    def pending(status):
        crm = next(each for each in status["destinations"] if each["name"] == "crm")
        attempt = {"at": "2026-01-01T00:00:00Z", "took_ms": 1, "verdict": "transient", "detail": "HTTP 409 Conflict\u202e; check `url`"}
        crm.update(pending=3, oldest="2020-01-01T00:00:00Z", last_attempt=attempt)

    def switch(act):
        change["with"] = act
        page.evaluate("dispatchEvent(new Event('focus'))")

    switch(pending)
    expect(title).to_have_text("Deliveries are delayed")
    expect(box).to_have_attribute("data-tone", "wait")
    expect(box).to_contain_text("crm: 3 pending, the oldest for")
    expect(box).to_contain_text(re.compile("The last attempt of crm failed .* ago: HTTP 409 ConflictRLO; check url[.]"))
    reason = page.locator(".health .reason", has_text="HTTP 409")
    expect(reason).to_have_attribute("title", "last attempt: HTTP 409 Conflict[RLO]; check `url`")
    expect(page.locator(".health tr", has_text="crm").locator(".pill")).to_have_class("pill wait")
    # A page that sees pending deliveries asks every two seconds.
    switch(lambda status: (pending(status), status.update(ready=False, stopping="waiting for 1 delivery to crm, at most 9s")))
    expect(title).to_have_text("The daemon is stopping", timeout=10_000)
    expect(box).to_have_attribute("data-tone", "bad")
    expect(box).to_contain_text("waiting for 1 delivery to crm, at most 9s.")
    switch(0)
    expect(title).to_have_text("The state is unknown", timeout=10_000)
    expect(page.locator(".outage")).to_have_text(re.compile("systemctl status smsbridge. Trying again"))
    switch(500)
    expect(page.locator(".outage")).to_have_text("no Trying again every few seconds.", timeout=10_000)
    expect(box).not_to_contain_text("respond")

    def logs_in_again(then):
        switch(401)
        expect(page.locator(".login .failure")).to_have_text("Your session ended. Log in again.", timeout=10_000)
        switch(then)
        page.get_by_label("Token").fill(GIVEN["token"])
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Overview")).to_be_visible()

    # A session also ends without a restart; only a later start of the daemon shows that it was restarted.
    logs_in_again(lambda status: None)
    expect(page.locator(".toast")).to_have_count(0)
    logs_in_again(lambda status: status.update(started_at=status["now"]))
    expect(page.locator(".toast")).to_have_text(re.compile("The daemon was restarted .*, which ends all sessions"))
    page.context.close()


def keeps_the_charts_after_a_burst(page):
    page.get_by_role("link", name="Overview").click()
    accepted = page.locator(".key b").first
    bar = page.locator(".plot svg rect.bar")
    expect(accepted).to_have_text(re.compile(r"^[1-9]\d*$"))
    before = int(accepted.text_content())
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for number in range(600):
        post(f"burst {number}", f"+1303556{number % 9:04}")
    expect(accepted).to_have_text(str(before + 600))
    expect(bar.last).to_be_visible()
    page.get_by_role("link", name="Routes").click()
    page.get_by_role("link", name="Overview").click()
    expect(accepted).to_have_text(str(before + 600), timeout=5_000)
    expect(bar.last).to_be_visible()
    expect(page.get_by_role("img", name=f"In the last hour {before + 600} accepted")).to_be_visible()
    bodies = [url for url in asked if "/api/v1/messages" in url]
    assert bodies == [], f"messages were fetched for a chart: {bodies}"


def asks_before_it_changes_all_deliveries(page, card):
    """The destination is paused, with one pending delivery."""
    asked = page.locator("dialog")
    card.get_by_role("button", name="Retry all").click()
    expect(asked).to_contain_text("Retry the pending delivery to crm?")
    expect(asked).to_contain_text("crm is paused: nothing is sent until it is resumed.")
    asked.get_by_role("button", name="Retry 1").click()
    expect(page.locator(".toast").last).to_have_text("0 deliveries due now, 1 was due already; destination crm is paused by the operator")
    card.get_by_role("button", name="Discard all").click()
    expect(asked).to_contain_text("Discard the pending delivery to crm?")
    expect(asked.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    expect(asked).to_have_count(0)
    expect(card.get_by_role("button", name="1 pending")).to_be_visible()


def pauses_resumes_and_tests_a_destination(page):
    page.get_by_role("link", name="Destinations").click()
    card = page.get_by_role("article", name="crm")
    card.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(card.locator("header .pill")).to_have_text("paused")
    post("waits for crm", "+13035550142")
    expect(card.get_by_role("button", name="1 pending")).to_be_visible()
    explains_why_a_delivery_is_pending(page)
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".key b").first).to_have_text(re.compile(r"^[1-9]\d*$"))
    paused = page.locator(".problems li", has_text="crm paused")
    expect(paused).to_contain_text("1 pending, the oldest for")
    expect(paused).to_contain_text("An operator paused it. Nothing is sent to it until it is resumed.")
    expect(page.locator(".problems")).not_to_contain_text("smsbridge destination resume")
    page.get_by_role("link", name="Show crm: paused").click()
    expect(card.locator(".listed li")).to_contain_text("Ada Moreno")
    asks_before_it_changes_all_deliveries(page, card)
    page.get_by_role("link", name="Destinations").click()
    card.get_by_role("button", name="Resume").click()
    expect(card.locator("header .pill")).to_have_text("up")
    expect(card.get_by_role("button", name="1 pending")).to_be_hidden()
    card.get_by_role("button", name="Test").click()
    expect(card.locator(".outcome")).to_contain_text("The test message was accepted")
    gone = page.get_by_role("article", name="pager")
    gone.get_by_role("button", name="Test").click()
    expect(gone.locator(".outcome")).to_contain_text("The test message failed")


def explains_a_route(page):
    page.get_by_role("link", name="Routes").click()
    routes = page.locator(".routes > li")
    expect(routes).to_have_count(4)
    expect(routes.nth(1)).to_contain_text("continues")
    expect(routes.nth(1)).to_contain_text("urgent|down")
    expect(routes.nth(2)).to_contain_text("+1303555*")
    expect(routes.nth(2).get_by_text("+1726*")).to_be_hidden()
    routes.nth(2).get_by_text("and 2 more").click()
    expect(routes.nth(2).get_by_text("+1726*")).to_be_visible()
    expect(routes.nth(2).locator(".unless")).to_contain_text("+13035550100")
    expect(routes.nth(3)).to_contain_text("screen")
    page.get_by_label("From").fill("+13035550142")
    page.get_by_label("To").fill("+13038675309")
    page.locator("textarea[name=message]").fill("The <b>server</b> is down")
    page.get_by_role("button", name="Where would it go?").click()
    expect(page.locator(".tried li.matched").first).to_contain_text("urgent")
    expect(page.locator(".payload", has_text="crm").locator("pre")).to_contain_text("<b>server</b>")
    page.get_by_label("Source").fill("nowhere")
    page.get_by_role("button", name="Where would it go?").click()
    expect(page.locator(".try .failure")).to_contain_text("nowhere")
    page.get_by_label("Source").fill("")
    page.get_by_label("From").fill("Google")
    page.get_by_role("button", name="Where would it go?").click()
    expect(page.locator(".tried")).to_be_visible()


def shows_an_undelivered_message_as_kept(page):
    post("you have won a car")
    page.get_by_role("link", name="Messages").click()
    kept = row(page, "you have won a car").first
    expect(kept.locator(".pill")).to_have_text("kept")
    expect(kept.locator(".pill")).not_to_have_class(re.compile("good"))
    kept.click()
    expect(page.locator(".detail")).to_contain_text("Its routes deliver it to no destination")
    page.keyboard.press("Escape")
    page.locator(".more summary").click()
    page.locator("select[name=state]").select_option("kept")
    expect(page.locator("table.messages tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Clear", exact=True).click()
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("link", name="1 kept").click()
    expect(page.locator("table.messages tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Clear", exact=True).click()


def busy_day():
    """Posts messages from several senders for the screenshots; one destination is down."""
    lines = [
        "Delivery for dock 3, we are at the gate", "Can you call me back? It is about the invoice", "ok thanks",
        "The boiler room is at 71 \u00b0C again", "URGENT: the line in hall 2 is down", "Your code is 493021",
        "Bin um 14:30 da, bitte Tor \u00f6ffnen", "\u0645\u0631\u062d\u0628\u0627\u060c \u0647\u0644 \u0623\u0646\u062a\u0645 \u0645\u0641\u062a\u0648\u062d\u0648\u0646 \u0627\u0644\u064a\u0648\u0645\u061f",
        "Running late, there before five\nPlease leave the side door open", "STOP", "\U0001f44d\U0001f3fd", "you have won a prize",
    ]
    for at, words in enumerate(lines * 2):
        post(words, f"+1303555{100 + at * 7 % 90:04}")


def screenshots(browser):
    for size, options in (("desktop", {"viewport": {"width": 1280, "height": 800}}), ("phone", {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True})):
        for scheme in ("light", "dark"):
            page = open_page(browser, f"{size} {scheme}", color_scheme=scheme, **options)
            shot = lambda name: (fits(page, f"{size} {name}"), page.screenshot(path=SHOTS / f"{name}-{size}-{scheme}.png"))
            page.goto(GIVEN["page"])
            expect(page.get_by_label("Token")).to_be_visible()
            shot("login")
            log_in(page)
            expect(page.locator(".plot svg").first).to_be_visible()
            page.wait_for_timeout(700)
            shot("overview")
            page.get_by_role("link", name="Messages").click()
            expect(page.locator("table.messages tbody tr").first).to_be_visible()
            shot("messages")
            page.locator(".more summary").click()
            shot("filters")
            page.locator(".more summary").click()
            row(page, "alert('run')").click()
            expect(page.locator(".detail blockquote")).to_be_visible()
            shot("hostile")
            page.keyboard.press("Escape")
            row(page, "hall 2 is down").first.click()
            expect(page.locator(".detail blockquote")).to_be_visible()
            shot("message")
            page.keyboard.press("Escape")
            page.get_by_role("link", name="Destinations").click()
            expect(page.locator(".destination").first).to_be_visible()
            page.get_by_role("article", name="crm").get_by_role("button", name="Test").click()
            expect(page.locator(".outcome p").first).to_contain_text("was accepted")
            page.get_by_role("article", name="pager").get_by_role("button", name="2 pending").click()
            expect(page.locator(".listed li")).to_have_count(2)
            shot("destinations")
            explains_a_route(page)
            shot("routes")
            if size == "phone":
                page.locator(".tried").scroll_into_view_if_needed()
                shot("routes-answer")
            page.get_by_role("link", name="Messages").click()
            row(page, "The back door").first.click()
            page.locator(".detail").get_by_role("button", name="Resend").click()
            shot("resend")
            page.get_by_role("button", name="Cancel").click()
            page.context.close()


def fits(page, name):
    """Checks that the page is not wider than the screen."""
    if page.evaluate("document.documentElement.scrollWidth") > page.viewport_size["width"]:
        wrong.append(f"{name}: the page is wider than the screen")


def logs_out(page):
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.evaluate("fetch('/api/v1/status').then((answer) => answer.status)") == 401
    wrong[:] = [each for each in wrong if "401" not in each]


STEPS = [
    requires_the_token, shows_a_hint_when_there_are_no_messages, shows_a_message_when_it_arrives, follows_a_retry, acknowledges_and_retries_a_dead_delivery, does_not_preselect_a_resend_that_would_arrive_twice,
    executes_nothing_from_a_message, links_only_addresses_that_are_shown_as_they_are, searches_and_moves_by_keyboard, pauses_resumes_and_tests_a_destination, explains_a_route,
    shows_an_undelivered_message_as_kept,
]


def main():
    SHOTS.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=GIVEN["chromium"], args=FLAGS, timeout=60_000)
        page = open_page(browser, "operator", viewport={"width": 1280, "height": 800})
        doing = None
        try:
            for doing in STEPS:
                doing(page)
                print("done:", doing.__name__)
            busy_day()
            doing = screenshots
            screenshots(browser)
            print("done: screenshots")
            doing = claims_only_what_it_knows
            claims_only_what_it_knows(browser)
            print("done:", doing.__name__)
            for doing in [does_not_move_what_is_read, shows_characters_that_hide_or_overlay, leaves_gaps_in_the_charts, keeps_the_charts_after_a_burst]:
                doing(page)
                print("done:", doing.__name__)
            logs_out(page)
            print("done: logs_out")
        except Exception:
            page.screenshot(path=SHOTS / "failed.png")
            wrong.append(f"{doing.__name__}: {traceback.format_exc()}")
        browser.close()
    for each in wrong:
        print(each, file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
