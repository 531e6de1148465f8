const whole = part('.whole img');
const canvas = part('canvas');
let drawn = '';
const percent = (value) => `${100 * value}%`;
// Scaled to cover the bucket, then cut to it, as training does.
const draw = (seen) => {
  const [width, height] = seen.bucket;
  const [across, down] = seen.scaled;
  canvas.width = width;
  canvas.height = height;
  canvas.style.imageRendering = width < 200 ? 'pixelated' : 'auto';
  const brush = canvas.getContext('2d');
  brush.imageSmoothingQuality = 'high';
  brush.drawImage(whole, -seen.at[0], -seen.at[1], across, down);
  const frame = part('.whole i').style;
  frame.left = percent(seen.at[0] / across);
  frame.top = percent(seen.at[1] / down);
  frame.width = percent(width / across);
  frame.height = percent(height / down);
};
hear('seen', (picture) => {
  const seen = picture?.seen;
  part('.none').hidden = Boolean(seen);
  part('.some').hidden = !seen;
  if (!seen) { part('.none').textContent = picture ? 'A browser cannot show this picture.' : 'Click a picture.'; return; }
  part('.caption').textContent = picture.typed || picture.prompt || 'No caption, and the set has no prompt.';
  part('.tokens').textContent = `${picture.typed ? 'its own caption' : 'the prompt of the set'}, ${picture.tokens}`;
  part('.bucket').textContent = `${seen.bucket.join('x')} px`;
  part('.cut').textContent = seen.kept > 0.995 ? 'nothing is cut off' : `${Math.round(100 * (1 - seen.kept))}% is cut off`;
  const key = picture.picture + JSON.stringify(seen);
  if (key === drawn) return;
  drawn = key;
  whole.onload = () => draw(seen);
  whole.src = picture.picture;
});
