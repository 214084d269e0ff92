// The answer to one trajectory: its outcome, and a row for each step with its reward and what that is made of.

import { make } from "./dom.js";
import { turnsOf } from "./turns.js";
import { counted, factor, signed, spaced } from "./words.js";

const LONG = 280;
const ERROR_WORDS = {
  data: "Not scored: the trajectory lacks what the recipe needs.",
  infrastructure: "Not scored: a scorer was lost. The whole trajectory abstains; this is not a reward of zero.",
};

/** The elements that show `result`, the service's answer to `trajectory`. */
export function resultOf(trajectory, result) {
  if (result.status === "error") return [failure(result.error)];
  const turns = turnsOf(trajectory);
  const parts = result.steps.flatMap((step) => step.components.map(({ value }) => Math.abs(value)));
  const scale = Math.max(...parts, Number.EPSILON);
  return [outcome(result), table(result, turns, scale)];
}

/** The result in one sentence. */
export function sentence(result) {
  if (result.status === "error") return "Not scored.";
  const abstained = result.steps.filter(({ reward }) => reward === null).length;
  const but = abstained ? `, of which ${abstained} without a reward` : "";
  return `Scored: ${counted(result.steps.length, "step")}${but}, total ${signed(result.total)}, ${verdict(result.solved)}.`;
}

function failure({ kind, message }) {
  return make("div", { class: "error" }, make("p", {}, make("strong", {}, ERROR_WORDS[kind])), make("p", {}, quoted(message)));
}

function outcome(result) {
  const pair = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  return make("dl", { class: "outcome" }, pair("Outcome", verdict(result.solved)), pair("Total", signed(result.total)));
}

function verdict(solved) {
  if (solved === null) return "nobody knows whether solved";
  return { 0: "not solved", 1: "solved" }[solved] ?? `solved to ${factor(solved)}`;
}

// Narrow screens lay the table out as blocks, which takes the roles of its elements away in some browsers.
function table(result, turns, scale) {
  const heads = ["Step", "What happened", "Reward", "Made of"];
  const head = make("tr", { role: "row" }, ...heads.map((name) => make("th", { scope: "col", role: "columnheader" }, name)));
  return make(
    "table",
    { class: "steps", role: "table" },
    make("caption", {}, "Steps of ", quoted(result.id)),
    make("thead", { role: "rowgroup" }, head),
    make("tbody", { role: "rowgroup" }, ...result.steps.map((step, i) => row(step, turns[i], scale))),
  );
}

function row(step, turn, scale) {
  const abstains = step.reward === null;
  return make(
    "tr",
    { role: "row", class: abstains ? "abstains" : null },
    make("th", { scope: "row", role: "rowheader" }, String(step.index)),
    make("td", { role: "cell" }, ...happened(turn), ...because(step)),
    make("td", { role: "cell", class: "reward" }, abstains ? make("span", { class: "tag" }, "abstains") : signed(step.reward)),
    make("td", { role: "cell" }, abstains ? note("No reward, which is not a reward of zero.") : madeOf(step, scale)),
  );
}

function happened(turn) {
  const told = turn.observation ? folded("Observation", turn.observation) : null;
  const status = turn.status && turn.status !== "ok" ? make("span", { class: "tag" }, turn.status) : null;
  if (turn.answer !== null) return [folded("Answer", turn.answer)];
  if (turn.unread !== null) return [folded("Unreadable turn", turn.unread), status, told];
  return [make("div", { class: "call" }, make("code", {}, quoted(turn.call)), status && " ", status), told];
}

function because(step) {
  const known = Object.entries(step.signals).filter(([, value]) => value !== null);
  const measured = known.map(([name, value]) => `${spaced(name)} ${factor(value)}${voted(step.votes[name])}`).join(" · ");
  const why = step.why === null ? null : make("p", { class: "why" }, make("b", {}, "Why "), quoted(step.why));
  return [note(`Measured: ${measured || "nothing"}`), why];
}

/** How far the votes behind a signal agree; nothing where one or none was cast. */
function voted(votes) {
  return votes && votes.count > 1 ? ` (${votes.count} votes, variance ${factor(votes.variance)})` : "";
}

function madeOf(step, scale) {
  return make("ul", { class: "parts" }, ...step.components.map((component) => partOf(component, scale)));
}

function partOf({ name, raw, weight, value }, scale) {
  return make(
    "li",
    {},
    make("span", { class: "of" }, spaced(name)),
    bar(value, scale),
    make("span", { class: "value" }, signed(value)),
    make("span", { class: "sum" }, `${factor(raw)} × ${factor(weight)}`),
  );
}

/** To the right of the middle for a gain, to the left and hatched for a loss; the words beside it say the same. */
function bar(value, scale) {
  const fill = make("span", { class: value < 0 ? "loss" : "gain" });
  fill.style.inlineSize = `${(50 * Math.abs(value)) / scale}%`;
  return make("span", { class: "bar", "aria-hidden": "true" }, fill);
}

/** A text of the trajectory under its name; a long one opens on demand. */
function folded(name, text) {
  if (text.length <= LONG) return make("div", { class: "told" }, make("b", {}, name, " "), quoted(text));
  const start = make("summary", {}, make("b", {}, name, " "), quoted(`${text.slice(0, LONG)}…`));
  return make("details", { class: "told" }, start, quoted(text));
}

/** A text that somebody else wrote, whose direction marks do not reach beyond it. */
function quoted(text) {
  return make("bdi", { class: "quoted" }, text);
}

function note(text) {
  return make("p", { class: "note" }, text);
}
