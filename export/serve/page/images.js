// Image files as data URLs that the server reads.

const READ_BY_SERVER = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const LARGEST_SIDE = 2048; // px, of an image that has to be written anew
let mostBytes = 10 * 2 ** 20;

/** The server's own limit on the bytes of one image. */
export function setMostBytes(limit) {
  if (Number.isFinite(limit)) mostBytes = limit;
}

/** Whether a file is worth trying: browsers name the type by the file's ending. */
export const looksLikeImage = (file) => file.type.startsWith("image/");

/**
 * An image part of a file. What the server reads is taken as it is; another type, or a file that is too large, is
 * decoded here and written as a PNG or JPEG. Throws an Error with a sentence where the browser cannot decode it.
 */
export async function imagePart(file) {
  const alt = file.name && !/^image\.\w+$/.test(file.name) ? file.name.replace(/\.\w+$/, "") : "";
  const address = URL.createObjectURL(file);
  const image = new Image();
  image.src = address;
  try {
    await image.decode().catch(() => {
      throw new Error(`"${file.name || "What was pasted"}" is not an image that this browser can read. Use PNG, JPEG, WebP or GIF.`);
    });
    const url = READ_BY_SERVER.includes(file.type) && file.size <= mostBytes ? await dataURL(file) : writtenAnew(image);
    return { type: "image", url, alt };
  } finally {
    URL.revokeObjectURL(address);
  }
}

function writtenAnew(image) {
  const [width, height] = [image.naturalWidth || 512, image.naturalHeight || 512];
  const scale = Math.min(1, LARGEST_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the server shows what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const png = canvas.toDataURL("image/png");
  return png.length * 0.75 <= mostBytes ? png : canvas.toDataURL("image/jpeg", 0.92);
}

/** A file as an address that holds it. */
export function dataURL(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`"${file.name}" could not be read: ${reader.error.message}`));
    reader.readAsDataURL(file);
  });
}
