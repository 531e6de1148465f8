const area = element.closest('[role=tabpanel]') ?? element;
const drop = part('.drop');
const list = part('.log ul');
let data = { set: '', limits: {} };
show((next) => { data = next; });

const FULL = 409; // what the server answers when the set holds no more
// Jobs are done one at a time: a file each, a member of a zip each.
const waiting = [];
let done = 0;
let added = 0;
let busy = false;
const ending = (name) => name.slice(name.lastIndexOf('.')).toLowerCase();
const isCaption = (name) => ['.txt', '.caption', '.cap', '.tags'].includes(ending(name));
const isSilent = (name) => name.startsWith('.') || ['Thumbs.db', 'desktop.ini'].includes(name);
const tell = (name, text, kind) => {
  const item = document.createElement('li');
  const title = document.createElement('b');
  title.textContent = name;
  item.dataset.kind = kind;
  item.append(title, ` ${text}`);
  list.append(item);
};
const progress = () => {
  const all = done + waiting.length + Number(busy);
  part('.busy').hidden = !busy;
  part('progress').max = all;
  part('progress').value = done;
  part('.busy span').textContent = `${Math.min(done + 1, all)} of ${all}`;
  part('.sum').textContent = busy ? '' : `${added} picture${added === 1 ? '' : 's'} added.`;
  part('.log').hidden = !(list.children.length || (done && !busy));
};

// A photo is made as small as training can use before it is sent; what the browser cannot read goes as it is.
const shrunk = async (file) => {
  if (!/^image\/(jpeg|png|webp|avif|bmp)$/.test(file.type) || file.size < 300000) return file;
  const picture = await createImageBitmap(file, { imageOrientation: 'from-image' }).catch(() => null);
  const scale = picture ? data.limits.side / Math.max(picture.width, picture.height) : 1;
  if (scale >= 1) { picture?.close(); return file; }
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const brush = canvas.getContext('2d');
  brush.fillStyle = '#fff';
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.imageSmoothingQuality = 'high';
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return new Promise((made) => canvas.toBlob((blob) => made(blob ?? file), 'image/jpeg', 0.95));
};
const sendFile = (set, file, name) => async () => {
  const body = await shrunk(file);
  const most = /\.zip$/i.test(name) ? data.limits.zip : data.limits.file;
  if (body.size > most?.bytes) throw new Error(most.words);
  const answer = await fetch(`/sets/${set}/files?name=${encodeURIComponent(name)}`, { method: 'POST', body })
    .catch(() => { throw new Error('could not be sent: the server, or the file, cannot be reached.'); });
  const taken = await answered(answer);
  if (taken.zip) unpack(set, taken);
  return taken;
};
const unpack = (set, zip) => {
  for (const [name, reason] of zip.left_out) tell(name, reason, 'warned');
  const jobs = zip.members.map((member) => ({ name: member.name, run: () => post(`/sets/${set}/zip/${zip.zip}/${member.index}`) }));
  if (jobs.length) jobs.at(-1).after = () => post(`/sets/zip/${zip.zip}/forget`);
  waiting.unshift(...jobs);
};
const stop = () => {
  if (waiting.length) tell(`${waiting.length} more`, 'not sent.', 'warned');
  waiting.length = 0;
};
const work = async () => {
  if (busy) return;
  done = added = 0;
  busy = true;
  while (waiting.length) {
    const job = waiting.shift();
    progress();
    try {
      const taken = await job.run();
      added += Number(taken.is_new ?? false);
      if (taken.text) tell(job.name, taken.text, taken.is_new ? 'note' : 'warned');
    } catch (error) {
      tell(job.name, error.message, 'refused');
      if (error.status === FULL) stop();
    }
    await job.after?.().catch(() => {});
    done += 1;
    if (done % 5 === 0) changed();
  }
  busy = false;
  progress();
  changed();
};
// Without a set the first drop makes one.
const chosen = async (title) => {
  data.set ||= (await post('/sets', { name: title || 'Pictures' })).id;
  return data.set;
};
const take = async (files, title) => {
  const wanted = files.filter((file) => !isSilent(file.name));
  if (!wanted.length) return;
  if (!busy) list.replaceChildren();
  const set = await chosen(title).catch((error) => tell(title || wanted[0].name, error.message, 'refused'));
  if (!set) { progress(); return; }
  wanted.sort((a, b) => Number(isCaption(a.name)) - Number(isCaption(b.name)));
  waiting.push(...wanted.map((file) => ({ name: file.name, run: sendFile(set, file, file.name) })));
  work();
};

const filesIn = async (entry) => {
  if (entry.isFile) return [await new Promise((got, failed) => entry.file(got, failed))];
  const reader = entry.createReader();
  const entries = [];
  for (;;) { // it gives them in parts
    const some = await new Promise((got, failed) => reader.readEntries(got, failed));
    if (!some.length) break;
    entries.push(...some);
  }
  return (await Promise.all(entries.map(filesIn))).flat();
};
const dropped = async (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  const loose = [...event.dataTransfer.files]; // empty once this function has waited
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const unread = (entry) => () => { tell(entry.name, 'could not be read.', 'refused'); return []; };
  const found = await Promise.all(entries.map((entry) => filesIn(entry).catch(unread(entry))));
  const files = entries.length ? found.flat() : loose;
  take(files, entries.find((entry) => entry.isDirectory)?.name);
};
const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
area.addEventListener('dragover', (event) => { if (hasFiles(event)) { event.preventDefault(); drop.classList.add('over'); } });
area.addEventListener('dragleave', (event) => { if (!area.contains(event.relatedTarget)) drop.classList.remove('over'); });
area.addEventListener('drop', (event) => { if (hasFiles(event)) dropped(event); });
document.addEventListener('paste', (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length || !element.isConnected || !element.offsetParent) return;
  event.preventDefault();
  const name = `pasted ${new Date().toTimeString().slice(0, 8).replaceAll(':', '.')}`;
  take(files.map((file) => (file.name === 'image.png' ? new File([file], `${name}.png`, { type: file.type }) : file)));
});
for (const kind of ['files', 'folder']) {
  const input = part(`.${kind}`);
  part(`[data-pick=${kind}]`).addEventListener('click', () => input.click());
  input.addEventListener('change', () => {
    const files = [...input.files];
    take(files, files[0]?.webkitRelativePath.split('/')[0]);
    input.value = '';
  });
}
hear('choose', () => part('.files').click());
part('.busy .btn').addEventListener('click', stop);
part('.log .btn').addEventListener('click', () => { list.replaceChildren(); done = 0; progress(); });
