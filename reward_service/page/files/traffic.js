// What the service has done: counts, latencies, and a line of the last minutes.

import { draw, make, part } from "./dom.js";
import { count, duration, factor } from "./words.js";

const FORGET_MILLISECONDS = 60_000;
const HEIGHT = 40;
const replicas = new Map();

/** Show the figures, together with those of the other replicas that answered within the last minute. */
export function showTraffic(snapshot) {
  const now = Date.now();
  replicas.set(snapshot.replica, { snapshot, at: now });
  for (const [name, { at }] of replicas) {
    if (now - at > FORGET_MILLISECONDS) replicas.delete(name);
  }
  const all = [...replicas.values()].map((entry) => entry.snapshot);
  replaceChanged(part("traffic-body"), [line(all), table(all)]);
}

/** Forget all figures, as when another caller takes over. */
export function forgetTraffic() {
  replicas.clear();
}

/** Leaves alone what is the same as before: somebody may be reading or selecting it. */
function replaceChanged(place, fresh) {
  if (place.childElementCount !== fresh.length) place.replaceChildren(...fresh);
  fresh.forEach((element, i) => {
    if (!element.isEqualNode(place.children[i])) place.children[i].replaceWith(element);
  });
}

function table(all) {
  const recent = all.map((snapshot) => snapshot.recent);
  const total = all.map((snapshot) => snapshot.total);
  const rows = [
    ["Requests", requests],
    ["Trajectories", (traffic) => sum(Object.values(traffic.trajectories))],
    ["Steps", (traffic) => traffic.steps],
    ["Abstained steps", (traffic) => traffic.abstained_steps],
    ...errors(total),
  ];
  const slowest = all.length > 1 ? ", slowest replica" : "";
  const body = [
    ...rows.map(([name, of]) => figures(name, ...[recent, total].map((some) => count(sum(some.map(of)))))),
    ...[50, 99].map((share) => {
      const of = (traffic) => traffic[`p${share}_seconds`];
      return figures(`Latency p${share}${slowest}`, duration(most(recent.map(of))), duration(most(total.map(of))));
    }),
  ];
  const caption = all.length > 1 ? `Figures of ${all.length} replicas` : "Figures of this replica";
  return make(
    "table",
    { class: "figures" },
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, make("td"), ...["5 minutes", "Since start"].map(columnHead))),
    make("tbody", {}, ...body),
  );
}

/** One row for each kind of error that there was, and one that says so where there was none. */
function errors(total) {
  const statuses = new Set(total.flatMap((traffic) => Object.keys(traffic.requests)).filter((status) => status >= 400));
  const refused = [...statuses].sort().map((status) => [`Refused, ${status}`, (traffic) => traffic.requests[status] ?? 0]);
  const failed = [
    ["Unscorable data", (traffic) => traffic.trajectories.data],
    ["Scorer lost", (traffic) => traffic.trajectories.infrastructure],
  ].filter(([, of]) => sum(total.map(of)) > 0);
  const found = [...refused, ...failed];
  return found.length > 0 ? found : [["Errors", () => 0]];
}

function line(all) {
  const rates = summed(all.map((snapshot) => snapshot.slots.slice(0, -1).map((slot) => slot.steps / snapshot.slot_seconds)));
  const highest = most(rates);
  const words = `Steps a second: ${factor(rates.at(-1))} now, ${factor(highest)} at most in 5 minutes`;
  return make("figure", {}, drawing(rates, highest), make("figcaption", {}, words));
}

/** The rates from left to right, oldest first; the foot of the drawing is zero. */
function drawing(rates, highest) {
  const last = rates.length - 1;
  const points = rates.map((rate, x) => `${x},${HEIGHT - (HEIGHT - 2) * (highest ? rate / highest : 0) - 1}`);
  const frame = { viewBox: `0 0 ${last} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "line" };
  return draw(
    "svg",
    frame,
    draw("polygon", { points: `0,${HEIGHT} ${points.join(" ")} ${last},${HEIGHT}` }),
    draw("polyline", { points: points.join(" ") }),
  );
}

function figures(name, ...values) {
  return make("tr", {}, make("th", { scope: "row" }, name), ...values.map((value) => make("td", {}, value)));
}

function columnHead(name) {
  return make("th", { scope: "col" }, name);
}

function requests(traffic) {
  return sum(Object.values(traffic.requests));
}

function summed(lists) {
  return lists[0].map((_, i) => sum(lists.map((list) => list[i])));
}

function sum(numbers) {
  return numbers.reduce((a, b) => a + b, 0);
}

/** The largest number; null where none is known. */
function most(numbers) {
  return numbers.reduce((a, b) => (b === null || (a !== null && a > b) ? a : b), null);
}
