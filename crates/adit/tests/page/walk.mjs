// A walk over the page, in Chromium. What is to happen in the network is asked for on standard output ("please join 3") and done when a line
// comes back. Ends with code 0 if all was as it should be.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";

const modules = createRequire(`${process.env.ADIT_MODULES}/package.json`);
const { chromium } = modules("playwright-core");
const axe = readFileSync(modules.resolve("axe-core/axe.min.js"), "utf8");
const PAGE = process.env.ADIT_PAGE;
const PATIENCE = 20_000;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
async function please(wish) {
  process.stdout.write(`please ${wish}\n`);
  return (await answers.next()).value;
}

// Without those of the last line, Chromium asks its maker for things, which a closed network refuses, loudly.
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

const complaints = [];
async function open(options) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 1000 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on("console", message => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
  page.on("pageerror", error => complaints.push(String(error)));
  page.on("dialog", dialog => { complaints.push(`a dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("request", request => {
    if (!request.url().startsWith(`${PAGE}/`) && !/^(blob|data):/.test(request.url())) complaints.push(`it asks ${request.url()}`);
  });
  await page.goto(`${PAGE}/`);
  await until(page, "its first state", () => document.querySelector("#live").textContent === "live");
  return page;
}

async function until(page, what, condition, argument) {
  try {
    await page.waitForFunction(condition, argument, { timeout: PATIENCE, polling: 50 });
  } catch (error) {
    console.log(await page.locator("body").innerText());
    throw new Error(`waited in vain for ${what}: ${error.message}`);
  }
}

const names = page => page.locator("#peer-rows button").allInnerTexts();
const drawn = page => page.locator("#map .peer .name").allTextContents();
const log = page => page.locator("#log").innerText();

async function accessible(page, when) {
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run({
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  const told = violations.map(v => `${v.id}: ${v.help}: ${v.nodes.map(n => `${n.html} ${n.failureSummary}`).slice(0, 3).join(" | ")}`);
  assert.deepEqual(told, [], `accessibility, ${when}`);
  assert.ok(passes.length > 20, "axe has looked");
}

// Names that come and go, without the page being loaded anew.
async function comesAndGoes(page) {
  await page.evaluate(() => { globalThis.sameDocument = true; });
  assert.deepEqual(await names(page), ["berlin"]);
  const before = await page.locator("#map .peer").first().getAttribute("transform");
  await please("join 3");
  await until(page, "lisbon in the table", () => document.querySelector("#peer-rows").innerText.includes("lisbon"));
  assert.deepEqual(await names(page), ["berlin", "lisbon"]);
  assert.deepEqual((await drawn(page)).sort(), ["berlin", "lisbon"]);
  assert.match(await log(page), /lisbon joined/);
  assert.equal(await page.locator("#map .peer").first().getAttribute("transform"), before, "who was there stays where it was");
  await please("leave 3");
  await until(page, "lisbon gone from the table", () => !document.querySelector("#peer-rows").innerText.includes("lisbon"));
  assert.deepEqual(await drawn(page), ["berlin"]);
  assert.match(await log(page), /lisbon left/);
  assert.equal(await page.evaluate(() => globalThis.sameDocument), true);
}

async function hostileNames(page) {
  await please("attach hostile");
  await until(page, "the container", () => document.querySelector("#container-rows").innerText.includes("onerror"));
  const shown = await page.locator("#container-rows th").innerText();
  assert.equal(shown, "<img src=x onerror=alert(1)><b>web</b>\ufffd");
  assert.equal(await page.locator("main b, main img:not(#trace-picture)").count(), 0, "a name became an element");
}

async function traffic(page) {
  await please("traffic 2");
  await until(page, "traffic on an edge", () => document.querySelectorAll("#map .edge.moving").length === 2);
  await until(page, "its rate in the drawing", () => /\d b\/s|kb\/s|Mb\/s/.test(document.querySelector("#map .rate")?.textContent));
  const cells = await page.locator("#peer-rows tr").first().locator("td").allInnerTexts();
  assert.match(cells[1], /[km]?b\/s/i, "and in the table");
  assert.match(cells[0], /^up, (AES-256-GCM|ChaCha20-Poly1305)$/);
  const moves = () => page.evaluate(() => getComputedStyle(document.querySelector("#map .flow")).animationName);
  assert.equal(await moves(), "flow");
  await page.emulateMedia({ reducedMotion: "reduce" });
  assert.equal(await moves(), "none");
  await page.emulateMedia({ reducedMotion: null });
}

// By the keyboard alone: to the table, and a node chosen there.
async function keyboard(page) {
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  const order = [];
  for (let i = 0; i < 30; i += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === document.body) return null;
      const style = getComputedStyle(element);
      return {
        name: element.id || element.className || element.tagName, text: element.innerText.slice(0, 20),
        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
      };
    });
    if (at === null) break;
    assert.ok(at.outlined, `${at.name} shows that it has the focus`);
    await until(page, `the sight of ${at.name}, which has the focus`, () => {
      const box = document.activeElement.getBoundingClientRect();
      return box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0 && box.top < innerHeight;
    });
    order.push(at);
  }
  const places = order.map(at => at.name);
  assert.equal(places[0], "skip", "the first stop leads past the drawing");
  const wanted = ["theme", "filter", "link", "trace-to", "trace-kind", "trace-size", "trace-go", "log"];
  assert.deepEqual(wanted.filter(name => places.includes(name)), wanted, `all can be reached: ${places}`);
  assert.deepEqual([...wanted].sort((a, b) => places.indexOf(a) - places.indexOf(b)), wanted, "in the order of the page");
  await page.locator("#peer-rows button").first().focus();
  await page.keyboard.press("Enter");
  await until(page, "what is known of berlin", () => document.querySelector("#details-title").textContent === "berlin");
  assert.equal(await page.locator("#peer-rows button").first().getAttribute("aria-pressed"), "true");
  // States come meanwhile, and the focus stays.
  const heard = await page.locator("#subtitle").innerText();
  await until(page, "another state", text => document.querySelector("#subtitle").innerText !== text, heard);
  assert.equal(await page.evaluate(() => document.activeElement.innerText), "berlin");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#details-title").innerText(), "This node");
  await page.locator("#filter").fill("nothing like this");
  assert.deepEqual(await names(page), []);
  await page.locator("#filter").fill("BERLIN");
  assert.deepEqual(await names(page), ["berlin"]);
  await page.locator("#filter").fill("");
}

// A trace to a peer that was chosen, started by the keyboard and shown as a picture and as text.
async function traces(page) {
  await page.locator("#peer-rows button").first().click();
  await page.locator("#trace-chosen").click();
  assert.equal(await page.locator("#trace-to").inputValue(), await please("address 2"));
  await page.keyboard.press("Enter");
  await until(page, "the picture of a trace", () => {
    const picture = document.querySelector("#trace-picture");
    return !document.querySelector("#trace-figure").hidden && picture.complete && picture.naturalWidth > 300 && picture.naturalHeight > 100;
  });
  assert.match(await page.locator("#trace-said").innerText(), /^Answered after \d/);
  assert.match(await page.locator("#trace-picture").getAttribute("alt"), /Answered after/);
  await page.locator("#trace-figure summary").click();
  const text = await page.locator("#trace-text").innerText();
  for (const part of ["adit0", "under0", "berlin"]) assert.ok(text.includes(part), `${part} in the text of the trace:\n${text}`);
  await page.locator("#trace-to").fill("the other one");
  await page.locator("#trace-go").click();
  await until(page, "a refusal", () => document.querySelector("#trace-said").innerText.includes('"the other one" is not an address'));
  // Chromium itself writes of each answer with such a code.
  const told = complaints.splice(0);
  assert.deepEqual(told.filter(text => !/status of 400/.test(text)), []);
  await page.locator("#peer-rows button").first().click();
}

async function colours(page) {
  const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await ground();
  await accessible(page, "in light");
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await ground(), light, "dark, as the system is");
  await accessible(page, "in dark");
  await page.locator("#theme").selectOption("light");
  assert.equal(await ground(), light, "light, as was chosen");
  await page.locator("#theme").selectOption("");
  await page.emulateMedia({ colorScheme: null });
}

async function narrow(page) {
  await page.setViewportSize({ width: 390, height: 800 });
  await until(page, "a drawing that fits", () => document.querySelector("#map").viewBox.baseVal.width < 500);
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= room, `${wide} of ${room}: nothing sticks out`);
  await page.setViewportSize({ width: 1360, height: 1000 });
}

// A daemon that ends is noticed, and one that comes back is found.
async function endsAndBegins(page) {
  await please("stop");
  await until(page, "that the daemon is away", () => document.querySelector("#live").textContent.startsWith("no answer"));
  assert.equal(await page.locator("#live").getAttribute("data-mood"), "bad");
  // What Chromium says of a server that is away is no fault of the page.
  const before = complaints.length;
  await please("start");
  await until(page, "the daemon's return", () => document.querySelector("#live").textContent === "live");
  await until(page, "that this was told", () => document.querySelector("#log").innerText.includes("started anew"));
  const others = complaints.splice(Math.min(before, complaints.length)).concat(complaints.splice(0));
  assert.deepEqual(others.filter(text => !/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET/.test(text)), []);
}

async function story() {
  const page = await open({ colorScheme: "light" });
  assert.match(await page.title(), /oslo – adit/);
  assert.equal(await page.locator("#ready").innerText(), "ready");
  const steps = { comesAndGoes, hostileNames, traffic, keyboard, traces, colours, narrow };
  for (const [name, step] of Object.entries(steps)) {
    const begun = Date.now();
    await step(page);
    console.log(`${name}: ${Date.now() - begun} ms`);
    assert.deepEqual(complaints, [], `what the browser complained about in ${name}`);
  }
  await endsAndBegins(page);
}

// A tunnel that carries frames: what is behind each peer, and a loop.
async function bridges() {
  const page = await open({ colorScheme: "light" });
  const facts = () => page.locator("#facts").innerText();
  await until(page, "what is behind the peer", () => /[1-9]\d* link-layer address/.test(document.querySelector("#peer-rows").innerText));
  assert.match(await facts(), /Port of\s+br0/);
  assert.equal(await page.locator("#wrong").isHidden(), true);
  await please("cable");
  await until(page, "the loop among what is wrong", () => document.querySelector("#problems").innerText.includes("a loop: the network behind adit0"));
  assert.match(await page.title(), /^\(1\) /);
  await accessible(page, "with a loop");
  await please("cut");
  await until(page, "the end of the loop", () => document.querySelector("#wrong").hidden);
  await page.locator("#peer-rows button").first().click();
  await until(page, "the facts of the peer", () => /Behind it\s+\d+ link-layer address/.test(document.querySelector("#facts").innerText));
  assert.deepEqual(complaints, []);
}

// What the documents show.
async function pictures(place) {
  for (const n of [3, 4, 5]) await please(`join ${n}`);
  for (const name of ["web", "db"]) await please(`attach ${name}`);
  for (const traffic of ["2 0.002", "3 0.05", "5 0.2"]) await please(`traffic ${traffic}`);
  const page = await open({ colorScheme: "light", viewport: { width: 1360, height: 1180 } });
  await until(page, "all of it", () => document.querySelectorAll("#map .edge.moving").length === 6 && document.querySelectorAll("#peer-rows tr").length === 4);
  await until(page, "some history", () => (document.querySelector("#spark-in path")?.getAttribute("d").match(/L/g) ?? []).length > 4);
  await page.locator("#peer-rows button").first().click();
  await page.screenshot({ path: `${place}/page-light.png` });
  await page.emulateMedia({ colorScheme: "dark" });
  await page.screenshot({ path: `${place}/page-dark.png` });
  await page.emulateMedia({ colorScheme: "light" });
  await page.locator("#trace-chosen").click();
  await page.keyboard.press("Enter");
  await until(page, "the picture of a trace", () => !document.querySelector("#trace-figure").hidden && document.querySelector("#trace-picture").complete);
  await page.locator("#trace-card").screenshot({ path: `${place}/page-trace.png` });
  assert.deepEqual(complaints, []);
}

const [scenario, ...rest] = process.argv.slice(2).join(" ").split(" ");
let code = 0;
try {
  await { story, switch: bridges, pictures: () => pictures(rest.join(" ")) }[scenario]();
} catch (error) {
  console.log(error.stack ?? String(error));
  console.log(`the browser complained: ${JSON.stringify(complaints, null, 1)}`);
  code = 1;
}
await browser.close();
process.exit(code);
