// The playground: a trajectory goes in, and what each of its steps earned comes out.

import { make, part, say } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { Refusal, ServiceError, score } from "./service.js";
import { resultOf, sentence } from "./steps.js";

/** The text is no trajectory, as far as the page can tell. */
class Unreadable extends Error {}

const OF_ONE = /^\/trajectories\/0/;
const drafts = new Map(EXAMPLES.map(({ name, trajectory }) => [name, JSON.stringify(trajectory, null, 2)]));
let shown = EXAMPLES[0].name;
let busy = false;

/** Fill the playground and let it score. `refused` is told of a missing or an unknown key, `scored` of an answer. */
export function openPlayground({ refused, scored }) {
  part("examples").append(...EXAMPLES.map(choice));
  part("trajectory").value = drafts.get(shown);
  part("trajectory").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) part("editor").requestSubmit();
  });
  part("editor").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    try {
      await scoreShown(scored);
    } catch (error) {
      if (!(error instanceof ServiceError || error instanceof Unreadable)) throw error;
      if (error instanceof Refusal && error.status === 401) refused(error);
      showError(error);
    } finally {
      setBusy(false);
    }
  });
}

async function scoreShown(scored) {
  showError(null);
  const trajectory = read(part("trajectory").value);
  say(part("summary"), "Scoring…");
  const { results } = await score(trajectory);
  // An answer in place of the trajectory names the first thing that does not fit; a refusal lists them all.
  if (results[0].error?.pointer) await score(trajectory, true);
  part("result-body").replaceChildren(...resultOf(trajectory, results[0]));
  say(part("summary"), sentence(results[0]));
  scored();
}

/** The trajectory in `text`. Throws an Unreadable that says why there is none. */
function read(text) {
  const value = parsed(text);
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Unreadable("Expected one JSON object, a trajectory.");
  }
  if ("trajectories" in value) throw new Unreadable("Expected one trajectory, one of those inside “trajectories”.");
  return value;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Unreadable(`This is not JSON: ${error.message}`);
  }
}

function choice({ name, title }) {
  const radio = make("input", { type: "radio", name: "example", value: name, id: `example-${name}` });
  radio.checked = name === shown;
  radio.addEventListener("change", () => {
    // What was typed stays with its example, so that looking at another one loses nothing.
    drafts.set(shown, part("trajectory").value);
    shown = name;
    part("trajectory").value = drafts.get(name);
    showError(null);
  });
  return make("span", { class: "choice" }, radio, make("label", { for: radio.id }, title));
}

/** Say beside the text what is wrong with it, or with the service; null clears it. */
function showError(error) {
  const faulty = error instanceof Unreadable || error?.status === 422;
  part("trajectory").setAttribute("aria-invalid", String(faulty));
  if (error) {
    say(part("summary"), "Not scored.");
    part("result-body").replaceChildren(make("p", { class: "note" }, "Nothing was scored."));
  }
  part("trajectory-error").replaceChildren(...(error ? words(error) : []));
}

function words(error) {
  if (error.status === 401) return [make("p", {}, "The service wants a key that it knows; enter one at the top.")];
  const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const found = (error.found ?? []).map(({ pointer, detail }) => {
    return make("li", {}, make("code", {}, pointer.replace(OF_ONE, "") || "/"), ` ${detail}`);
  });
  if (found.length === 0) return [make("p", {}, error.message + again)];
  return [make("p", {}, "The service cannot read this trajectory:"), make("ul", {}, ...found)];
}

function setBusy(now) {
  busy = now;
  // A disabled button would drop the focus of who has just pressed it.
  part("score").setAttribute("aria-disabled", String(now));
  part("result").setAttribute("aria-busy", String(now));
}
