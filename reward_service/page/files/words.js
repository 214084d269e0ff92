// Numbers and JSON values as people read them.

const COUNT = new Intl.NumberFormat("en");
const REWARD = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 3 });
const FACTOR = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });
const MINUS = "−";

/** 12,345 */
export function count(number) {
  return COUNT.format(number);
}

/** "1 step", "2 steps" */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** +0.60, −0.10, 0.00 */
export function signed(number) {
  const digits = REWARD.format(Math.abs(number));
  if (Number(digits.replaceAll(",", "")) === 0) return digits;
  return (number < 0 ? MINUS : "+") + digits;
}

/** 0.6, −0.1 */
export function factor(number) {
  return FACTOR.format(number).replace("-", MINUS);
}

/** 1.2 ms, 3.4 s; a dash where nothing was measured. */
export function duration(seconds) {
  if (seconds === null) return "–";
  const [value, unit] = seconds < 1 ? [seconds * 1000, "ms"] : [seconds, "s"];
  return `${value.toPrecision(value < 100 ? 2 : 3)} ${unit}`;
}

/** A value of the recipe: {"kind": "overlap", "threshold": 0.3} is "overlap, threshold 0.3". */
export function setting(value) {
  if (value === null) return "none";
  if (typeof value !== "object") return String(value);
  if (Array.isArray(value)) return value.map(setting).join(", ") || "none";
  const { kind, ...others } = value;
  const named = Object.entries(others).map(([name, inner]) => `${spaced(name)} ${setting(inner)}`);
  return [...(kind === undefined ? [] : [String(kind)]), ...named].join(", ") || "none";
}

/** step_cost is "step cost". */
export function spaced(name) {
  return name.replaceAll("_", " ");
}
