// The head of the page: is the service ready, which version scores, and by which recipe.

import { make, part, say } from "./dom.js";
import { Refusal, ServiceError, ask } from "./service.js";
import { factor, setting, spaced } from "./words.js";

const SHORT = 12;
const TOLD_MILLISECONDS = 4000;

/** Ask whether the service is ready and show it. Gives the reward version, or null where there is none to know. */
export async function refreshReadiness() {
  try {
    const { reward_version } = await ask("readyz");
    showReadiness("ready", "Ready");
    showVersion(reward_version);
    return reward_version;
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    const reached = error instanceof Refusal;
    showReadiness(reached ? "waiting" : "lost", reached ? `Not ready: ${error.message}` : error.message);
    return null;
  }
}

/** Show what the service says of its scorer. */
export function showRecipe(card) {
  const shaping = Object.entries(card.shaping).map(([name, value]) => row(spaced(name), setting(value)));
  part("recipe-body").replaceChildren(
    make("h3", {}, "Shaping"),
    make("dl", { class: "pairs" }, ...shaping.flat()),
    make("h3", {}, "Signals"),
    make("dl", { class: "pairs" }, ...Object.entries(card.signals).flatMap(([name, range]) => signal(card, name, range))),
  );
}

/** Let the button copy the version; where the browser has no clipboard (plain HTTP), select it instead. */
export function offerCopy() {
  part("copy-version").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(part("version").dataset.full);
      tell("Copied");
    } catch {
      say(part("version"), part("version").dataset.full);
      getSelection().selectAllChildren(part("version"));
      tell("Selected; copy it with your keyboard");
    }
  });
}

function tell(text) {
  say(part("copied"), text);
  setTimeout(() => say(part("copied"), ""), TOLD_MILLISECONDS);
}

function showReadiness(state, text) {
  part("readiness").dataset.state = state;
  say(part("readiness"), text);
}

function showVersion(version) {
  const field = part("version");
  if (field.dataset.full === version) return;
  field.dataset.full = version;
  field.title = version;
  say(field, version.slice(0, SHORT));
  part("copy-version").disabled = false;
}

function signal(card, name, [low, high]) {
  const { extra, ...slots } = card.measured_by.signals;
  return row(spaced(name), `${setting({ ...slots, ...extra }[name])}; from ${factor(low)} to ${factor(high)}`);
}

function row(name, value) {
  return [make("dt", {}, name), make("dd", {}, value)];
}
