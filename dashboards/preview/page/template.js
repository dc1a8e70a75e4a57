/** `$name`, `${name}`, `${name:format}` and `[[name]]` in titles and links, as Grafana replaces them. */

const REFERENCE = /\$\{([^}:]+)(?::([^}]+))?\}|\$(\w+)|\[\[(\w+)\]\]/g;

/**
 * @param text with references; those that nobody knows stay as they are
 * @param lookup from a name to its values (a list of texts), or undefined
 */
export function filled(text, lookup) {
  return String(text).replace(REFERENCE, (whole, braced, format, plain, double) => {
    const name = braced ?? plain ?? double;
    const values = lookup(name, format);
    if (values === undefined) return whole;
    return typeof values === "string" ? values : written(name, values, format);
  });
}

/** The address that a link of a board leads to here: one of another Grafana's pages becomes one of the preview's. */
export function address(url, lookup, text = (value) => value) {
  const parts = filled(url, (name, format) => {
    const values = lookup(name, format);
    return Array.isArray(values) && !format ? values.map((value) => encodeURIComponent(text(value))) : values;
  });
  const safe = /^(https?:|\/|\?|#)/i.test(parts) && !parts.startsWith("//");
  return safe ? parts : "#";
}

function written(name, values, format) {
  switch (format) {
    case "queryparam":
      return values.map((value) => `var-${name}=${encodeURIComponent(value)}`).join("&");
    case "percentencode":
      return encodeURIComponent(values.join(","));
    case "singlequote":
      return values.map((value) => `'${value.replaceAll("'", "\\'")}'`).join(",");
    case "pipe":
      return values.join("|");
    case "csv":
    case "raw":
      return values.join(",");
    default:
      return values.join(" + ");
  }
}
