// The report of a command, or what is in a file, as a table: names at the left, values at the right.
import { h, number } from "../dom.js";

const MOST = 40;

/** A value of JSON as elements. Empty values are left out of tables. */
export function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return number(value);
  if (typeof value === "string") return value.includes("\n") ? h("pre", { tabindex: "0" }, value) : value;
  if (Array.isArray(value)) return listed(value);
  return facts(value);
}

function listed(values) {
  const rest = values.length > MOST ? ` and ${values.length - MOST} more` : "";
  if (values.every((each) => typeof each !== "object" || each === null)) return values.slice(0, MOST).map(shown).join(", ") + rest;
  return [h("div.stack", {}, values.slice(0, MOST).map((each) => h("div", {}, shown(each)))), rest];
}

function facts(table) {
  const entries = Object.entries(table).filter(([, value]) => !isEmpty(value));
  const rows = entries.slice(0, MOST).map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name.replaceAll("_", " ")), h("td.wrap", {}, shown(value))));
  const rest = entries.length - MOST;
  return h("table.facts", {}, h("tbody", {}, rows, rest > 0 ? h("tr", {}, h("td", { colspan: 2 }, `and ${rest} more`)) : null));
}

function isEmpty(value) {
  return value === null || value === "" || (typeof value === "object" && Object.keys(value).length === 0);
}
