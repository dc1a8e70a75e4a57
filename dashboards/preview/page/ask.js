/** Asking the server. */

/** A refusal, in words for the user; `away`: ClickHouse or the server does not answer, it may work again by itself. */
export class Refused extends Error {
  constructor(message, away) {
    super(message);
    this.away = away;
  }
}

export async function get(path) {
  return answer(() => fetch(path, { headers: { Accept: "application/json" } }));
}

export async function post(path, body, signal) {
  const request = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  };
  return answer(() => fetch(path, request));
}

async function answer(send) {
  let response;
  try {
    response = await send();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The preview has ended: start it again with fanpulse boards preview", true);
  }
  const found = await response.json();
  if (!response.ok) throw new Refused(found.error ?? response.statusText, response.status === 503);
  return found;
}
