// The way to the service: one deadline for every request, and every refusal as an error with words.

import { part } from "./dom.js";

const PROBE_SECONDS = 10;
const SCORE_SECONDS = 60;
const SPARE_SECONDS = 5;

const KEY = /^[\x21-\x7e]*$/;

/** No answer that could be used; its message is for the person at the page. */
export class ServiceError extends Error {}

/** The service said no, in a problem document (RFC 9457) or without one. */
export class Refusal extends ServiceError {
  constructor(status, problem, retryAfter = null) {
    super(problem.detail ?? `The service answered with status ${status}.`);
    this.status = status;
    this.found = problem.errors ?? [];
    this.retryAfter = retryAfter;
  }
}

/** No answer at all. */
export class Unreachable extends ServiceError {}

/** The JSON at `path`. Throws a ServiceError. */
export function ask(path) {
  return request(path, {}, PROBE_SECONDS);
}

/** The answer to one trajectory. Throws a ServiceError; told to be strict, also where the trajectory is not scored. */
export function score(trajectory, strict = false) {
  const options = { explain: true, deadline_ms: SCORE_SECONDS * 1000, strict };
  const body = JSON.stringify({ schema_version: 1, options, trajectories: [trajectory] });
  const init = { method: "POST", headers: { "Content-Type": "application/json" }, body };
  // The service's own deadline comes first: it knows better what was missing.
  return request("v1/score", init, SCORE_SECONDS + SPARE_SECONDS);
}

async function request(path, init, seconds) {
  const headers = { ...init.headers, ...authorisation(part("key").value.trim()) };
  const { response, body } = await reached(path, { ...init, headers }, seconds);
  if (response.ok) return body;
  throw new Refusal(response.status, body ?? {}, response.headers.get("retry-after"));
}

function authorisation(key) {
  // The browser would refuse to send such a header, and the service could not be told from one that is down.
  if (!KEY.test(key)) throw new Refusal(401, { detail: "A key has neither spaces nor accents in it." });
  return key && { Authorization: `Bearer ${key}` };
}

async function reached(path, init, seconds) {
  try {
    const response = await fetch(path, { ...init, cache: "no-store", signal: AbortSignal.timeout(seconds * 1000) });
    const isJson = /^application\/(problem\+)?json/.test(response.headers.get("content-type") ?? "");
    return { response, body: isJson ? await response.json() : null };
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Unreachable(late ? "The service did not answer in time." : "The service cannot be reached.");
  }
}
