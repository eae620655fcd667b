"use strict";
// Videos of one prompt play together, and only while they can be seen; a slider goes through their frames.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const button = document.querySelector("#play");
let playing = !still;
const clips = [...document.querySelectorAll(".clip")].map(clip => ({
  clip, videos: [...clip.querySelectorAll("video")], slider: clip.querySelector("input"), seen: false, held: false,
}));
const go = one => one.videos.forEach(v => (playing && one.seen && !one.held) ? v.play().catch(() => {}) : v.pause());
for (const one of clips) {
  const [lead, ...others] = one.videos, frame = 1 / one.slider.dataset.fps;
  one.videos.forEach(v => { v.removeAttribute("autoplay"); v.pause(); });
  const ready = () => { one.slider.max = Math.round(lead.duration / frame) - 1; one.slider.hidden = false; };
  if (lead.readyState) ready(); else lead.addEventListener("loadedmetadata", ready);
  one.slider.addEventListener("input", () => {
    one.held = true;
    go(one);
    one.videos.forEach(v => { v.currentTime = (+one.slider.value + 0.5) * frame; });
  });
  lead.addEventListener("timeupdate", () => {
    if (one.held) return;
    one.slider.value = Math.floor(lead.currentTime / frame);
    others.forEach(v => { if (Math.abs(v.currentTime - lead.currentTime) > frame) v.currentTime = lead.currentTime; });
  });
}
const watch = new IntersectionObserver(entries => entries.forEach(entry => {
  const one = clips.find(each => each.clip === entry.target);
  one.seen = entry.isIntersecting;
  go(one);
}), {rootMargin: "100px"});
clips.forEach(one => watch.observe(one.clip));
const label = () => { button.textContent = playing ? "Pause all" : "Play all"; };
button.hidden = false;
button.addEventListener("click", () => {
  playing = !playing || clips.some(one => one.held);
  clips.forEach(one => { one.held = false; go(one); });
  label();
});
label();
document.querySelectorAll("input[name=group]").forEach(choice => choice.addEventListener("change", () => {
  document.querySelectorAll("[data-group]").forEach(section => {
    section.hidden = choice.value !== "" && section.dataset.group !== choice.value;
  });
}));
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => { each.open = true; }));
