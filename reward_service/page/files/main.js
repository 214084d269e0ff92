// Starts the page: asks the service again and again, and lets the playground score.

import { make, part, say } from "./dom.js";
import { openPlayground } from "./playground.js";
import { Refusal, ServiceError, ask } from "./service.js";
import { offerCopy, refreshReadiness, showRecipe } from "./status.js";
import { forgetTraffic, showTraffic } from "./traffic.js";

const READINESS_SECONDS = 5;
const TRAFFIC_SECONDS = 2;

let welcome = true; // false from a refused key to the next one: asking on would only fill the service's log
let recipeOf = null; // the reward version whose recipe is shown

async function readiness() {
  const version = await refreshReadiness();
  if (version !== null && version !== recipeOf) await recipe(version);
}

async function recipe(version) {
  await behindKey(part("recipe-body"), async () => {
    const { data } = await ask("v1/models");
    showRecipe(data[0]);
    recipeOf = version;
  });
}

async function traffic() {
  await behindKey(part("traffic-body"), async () => showTraffic(await ask("v1/stats")));
}

/** Show in `place` what `show` fetches, or why it cannot be had. */
async function behindKey(place, show) {
  if (!welcome) return;
  try {
    await show();
  } catch (error) {
    if (!(error instanceof ServiceError)) throw error;
    if (error instanceof Refusal && error.status === 401) refused(error);
    const words = welcome ? error.message : "Enter an API key to see this.";
    place.replaceChildren(make("p", { class: "note" }, words));
  }
}

function refused(error) {
  welcome = false;
  const key = part("key").value;
  const words = key === "" ? "This service wants an API key." : `The service refuses this key: ${error.message}`;
  say(part("key-error"), words);
  part("key").setAttribute("aria-invalid", "true");
}

/** Whoever scores is welcome, also with a key that was never tried before. */
async function scored() {
  await (welcome ? traffic() : begin());
}

async function begin() {
  welcome = true;
  recipeOf = null;
  forgetTraffic();
  part("key").removeAttribute("aria-invalid");
  say(part("key-error"), "");
  await Promise.all([readiness(), traffic()]);
}

async function every(seconds, refresh) {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resume) => setTimeout(resume, seconds * 1000));
  }
}

offerCopy();
openPlayground({ refused, scored });
part("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  begin();
});
every(READINESS_SECONDS, readiness);
every(TRAFFIC_SECONDS, traffic);
