// One request after the other, from all widgets of the place: a caption is saved before captions are changed at large.
const post = (path, body) => {
  const send = async () => {
    const answer = await fetch(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body ?? {}),
    }).catch(() => { throw new Error('The server cannot be reached. Is it still running?'); });
    return answered(answer);
  };
  const sent = (document.lastPost ?? Promise.resolve()).then(send);
  document.lastPost = sent.catch(() => {});
  return sent;
};
const answered = async (answer) => {
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(data?.error ?? `The server refused it (${answer.status}).`), { status: answer.status });
  return data;
};
const changed = () => trigger('changed');
const part = (name) => element.querySelector(name);
// What happened, and a way back where there is one. An undo that is not for this line goes away with it.
const say = (line, text, undo) => {
  line.querySelector('span').textContent = text;
  const button = line.querySelector('button');
  button.hidden = !undo;
  button.onclick = undo ? async () => {
    button.hidden = true;
    try { say(line, await undo()); } catch (error) { say(line, error.message); }
    changed();
  } : null;
};
// To the other widgets of the place.
const announce = (name, detail) => document.dispatchEvent(new CustomEvent(`images-${name}`, { detail }));
const hear = (name, heard) => document.addEventListener(`images-${name}`, (event) => {
  if (element.isConnected) heard(event.detail);
});
